"""Asking for programs whose bits do not depend on batch, threads or devices.

By default a program is the fastest one that XLA makes. The last bits of an image then depend on how many images are
computed beside it: sums of another order differ by 1e-6, which a sampler of 20 steps turns into 4e-5. Inside
`batch_invariant()` the CPU programs of `sample`, the editors and the likelihood add up in one order, whatever the
batch, the number of threads and the number of devices. They take 1.1 to 1.5 times as long (docs/benchmarks.md).
Programs of GPUs and TPUs stay as they are.
"""

import contextlib
import contextvars
from collections.abc import Iterator

_asked = contextvars.ContextVar("batch_invariant", default=False)


@contextlib.contextmanager
def batch_invariant(on: bool = True) -> Iterator[None]:
    """Within this context, an image on a CPU has the same bits alone, in any batch and on any number of devices.

    `with sdejax.batch_invariant(): images = sdejax.sample(...)`. A program is compiled once for each of the two modes.
    """
    token = _asked.set(on)
    try:
        yield
    finally:
        _asked.reset(token)


def is_batch_invariant() -> bool:
    """Whether `batch_invariant()` is in force."""
    return _asked.get()

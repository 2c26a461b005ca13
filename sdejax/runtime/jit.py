"""`jax.jit` as this library uses it: with the compiler options that its programs run best with.

XLA's CPU backend hands convolutions, matrix products and reductions to one library (YNNPACK). Its reductions are quick;
its 3 x 3 convolutions take 1.1 to 1.7 times as long as Eigen's, and its products take in the arithmetic around them,
for which scales per channel are then spread out to whole images in memory. Training leaves it the reductions only.
The programs that make images leave it products and convolutions, each by itself, and its kernels that add up in one
order: Eigen cuts long sums into as many parts as XLA has threads, the other kernels are chosen by the number of images,
and so would be the last bits of an image. They take 1.1 to 1.5 times as long (docs/benchmarks.md).
Other platforms need no options.
"""

import contextvars
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import jax
from jax.core import Tracer

from sdejax.runtime.program_cache import kept_programs

F = TypeVar("F", bound=Callable[..., Any])
_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
_CPU = {_YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}
_SAME_BITS = {
    _YNNPACK: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "xla_cpu_enable_platform_dependent_math": "False",
}

_same_bits = contextvars.ContextVar("same_bits", default=False)


def same_bits() -> bool:
    """Whether what is being traced is an image program for this machine's CPU, whose rows are to have the same bits."""
    return _same_bits.get()


@functools.cache
def compiler_options() -> dict[str, str]:
    """The options for `jax.jit(..., compiler_options=...)` on this machine's default backend.

    For programs of your own that call a network; the training step has them already, and so have `sample` and the
    editors, whose bits are the same in any batch by others.
    """
    return _accepted(_CPU)


@functools.cache
def _image_options() -> dict[str, str]:
    """The options of programs that make images."""
    return _accepted(_SAME_BITS)


def _accepted(options: dict[str, str]) -> dict[str, str]:
    """The options, where this machine's XLA has them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except Exception:  # another version of XLA has other options, and refuses these in its own way
        return {}
    return options


def _with_same_bits(function: F) -> F:
    """The function, traced so that `same_bits` is true; another to jax, which keeps one trace of a function."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        token = _same_bits.set(True)
        try:
            return function(*args, **kwargs)
        finally:
            _same_bits.reset(token)

    return cast(F, traced)


def jit(function: F, *, static_argnames: Iterable[str] = (), donate_argnums: tuple[int, ...] = ()) -> F:
    """`jax.jit` with compiler options, asked for at the first call, so that importing touches no device.

    Those of programs that make images, but for one that takes its arguments over (`donate_argnums`), as training does.
    Inside another `jit`, or under a gradient, it is plain `jax.jit`: options belong to whole programs. `lower` is that
    of the whole program; `lower_plain` has no options, for devices that are not this machine's. Programs come from the
    folder that `programs.keep_programs` named, if it did.
    """
    static_argnames = tuple(static_argnames)
    how: dict[str, Any] = {"static_argnames": static_argnames, "donate_argnums": donate_argnums}
    plain = jax.jit(function, **how)

    @functools.cache
    def whole() -> Any:  # what jax.jit returns has no public type
        if donate_argnums:
            return jax.jit(function, compiler_options=compiler_options(), **how)
        options = _image_options()
        return jax.jit(_with_same_bits(function) if options else function, compiler_options=options, **how)

    def lower(*args: Any, **kwargs: Any) -> Any:
        return whole().lower(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        inside = isinstance(jax.device_put(0.0), Tracer) or any(
            isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs))
        )
        if inside:
            return plain(*args, **kwargs)
        programs = kept_programs()
        if programs is None or donate_argnums:
            return whole()(*args, **kwargs)
        return programs.call(function, lower, static_argnames, args, kwargs)

    call.lower = lower  # type: ignore[attr-defined]
    call.lower_plain = plain.lower  # type: ignore[attr-defined]
    return cast(F, call)

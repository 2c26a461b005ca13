"""Our side of `benchmarks.network`.

As a program, `python -m benchmarks.network_ours FOLDER BATCH TASK` prints the peak memory, in MiB, of a process that
only loads the network of a diffusers folder and makes two such calls.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import sdejax as sj
from benchmarks.peak_memory import mebibytes
from sdejax.runtime.jit import jit
from tests.peers import image

LABEL = 500.0


def call(folder: str, batch: int, task: str) -> Callable[[], None]:
    """One evaluation ("forward"), or one step of training: |output - noise|^2, its gradient, and Adam ("step")."""
    model = sj.load(folder)
    shape = (batch, *model.shape)
    given, label = jnp.asarray(image(0, shape)), jnp.full(shape[:1], LABEL)

    def output(params: Any, x: jax.Array) -> jax.Array:
        return model.with_params(params).network(x, label, None)

    if task == "forward":
        run = jax.jit(output, compiler_options=sj.compiler_options())

        def evaluate() -> None:
            jax.block_until_ready(run(model.params, given))

        return evaluate
    optimiser, noise = optax.adam(1e-4), jnp.asarray(image(1, shape))

    def update(params: Any, state: Any) -> Any:
        gradient = jax.grad(lambda params: jnp.mean(jnp.square(output(params, given) - noise)))(params)
        change, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, change), state

    step = jit(update, donate_argnums=(0, 1))
    carried = [(model.params, optimiser.init(model.params))]

    def train() -> None:
        carried[0] = jax.block_until_ready(step(*carried[0]))

    return train


if __name__ == "__main__":
    made = call(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    made()
    made()
    print(mebibytes())

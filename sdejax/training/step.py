"""Denoising score matching in continuous time (Song et al. 2021, eq. 7), as pure functions.

With D the denoiser that the network's output means (eq. 6), and tau the noise-to-signal ratio (eq. 2), the loss is

    E_t w(t) E |D(t, x_t) - x0|^2

where the weighting w, up to a constant, is one of

    output      |output - target|^2 as it is
    noise       1 / tau, the error of the noise                          (Ho et al. 2020, L_simple)
    likelihood  (dtau/dt) / (2 tau^2), with t uniform: -log p up to a constant  (Song et al. 2021b, theorem 1)
    edm         1 / tau + 1 / data_std^2                                 (Karras et al. 2022, table 1)
    min_snr     min(1 / tau, gamma)                                      (Hang et al. 2023, eq. 9)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sdejax.model.parametrisation import Parametrisation
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import constrain_images, constrain_state, replicate, state_shardings
from sdejax.sde.base import SDE
from sdejax.training.objective import Objective, drop_text, score_matching_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a run needs to go on.

    The number of the step (), parameters, their moving averages (one tree for each decay), the optimiser's state, and
    how many steps were skipped because their loss or gradient was not finite: in all, and since the last one that was.
    """

    step: jax.Array
    params: Any
    ema: tuple[Any, ...]
    optimiser: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def init_state(params: Any, optimiser: optax.GradientTransformation, averages: int = 1) -> TrainState:
    """The state before the first step; each of the moving averages starts at the parameters."""
    zero = jnp.zeros((), jnp.int32)
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
    return TrainState(zero, params, ema, optimiser.init(params), jnp.copy(zero), jnp.copy(zero))


def abstract_state(params: Any, optimiser: optax.GradientTransformation, averages: int, mesh: Mesh) -> TrainState:
    """The shapes of `init_state` and where its arrays lie on `mesh`; `params` may be shapes alone. Costs no memory."""
    shapes = jax.eval_shape(lambda params: init_state(params, optimiser, averages), params)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def make_train_step(
    graph: Any,
    sde: SDE,
    parametrisation: Parametrisation,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    ema_decay: float | tuple[float, ...],
    seed: int,
    *,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, jax.Array, jax.Array | None], tuple[TrainState, dict[str, jax.Array]]]:
    """One jitted update: (state, images, tokens (b, words) or None) -> (state, metrics).

    Images are (b, h, w, c), float in [-1, 1] or uint8. The state's buffers are donated. All randomness comes from
    (seed, step), so a resumed run repeats it, and is laid out by the image's place in the batch, so any number of
    devices draws the same. A moving average warms up: its decay at step n is at most (1 + n) / (10 + n). The gradient
    is summed over `accumulate` parts of the batch, one after the other. On a `mesh`
    (`sdejax.runtime.sharding.train_mesh`) the
    images are spread over all of it and the state over its axis "fsdp".

    A step whose loss or gradient is not finite changes nothing but the counts in the state; `metrics` has the loss,
    the gradient's norm, and these counts.
    """
    decays = ema_decay if isinstance(ema_decay, tuple) else (ema_decay,)

    def mean_loss(params, key, batch):
        times, noise, images, tokens = batch
        whole = replicate(params, mesh)
        losses = score_matching_loss(graph, sde, parametrisation, whole, times, noise, images, tokens, key)
        return jnp.mean(objective.weights(sde, parametrisation, times) * losses)

    def update(
        state: TrainState, images: jax.Array, tokens: jax.Array | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        time_key, noise_key, text_key, dropout_key = jax.random.split(key, 4)
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 127.5 - 1.0
        times = objective.sample_times(time_key, sde, images.shape[0])
        noise = jax.random.normal(noise_key, images.shape)
        if tokens is not None:
            tokens = drop_text(text_key, tokens, objective)
        batch = constrain_images((times, noise, images, tokens), mesh)
        loss, gradient = _accumulated(jax.value_and_grad(mean_loss), state.params, dropout_key, batch, accumulate)
        gradient = constrain_state(gradient, mesh)
        norm = optax.tree.norm(gradient)
        change, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, change)
        step = state.step + 1
        ema = tuple(_averaged(decay, step, old, params) for decay, old in zip(decays, state.ema, strict=True))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, ema, optimiser_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema, optimiser_state),
            (state.params, state.ema, state.optimiser),
        )
        skipped = state.skipped + ~finite
        in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        new = TrainState(step, params, ema, optimiser_state, skipped, in_a_row)
        metrics = {"loss": loss, "gradient_norm": norm, "skipped": skipped, "skipped_in_a_row": in_a_row}
        return constrain_state(new, mesh), metrics

    return jit(update, donate_argnums=(0,))


def _averaged(decay: float, step: jax.Array, average: Any, params: Any) -> Any:
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: now * old + (1.0 - now) * new, average, params)


def _accumulated(
    value_and_grad: Callable, params: Any, key: jax.Array, batch: Any, parts: int
) -> tuple[jax.Array, Any]:
    """The mean over the parts of a batch of the loss and its gradient."""
    if parts == 1:
        return value_and_grad(params, key, batch)

    def split(leaf):
        # Every parts-th image: the images of a part stay spread over the devices as the batch was.
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    def add(total, part):
        found = value_and_grad(params, part[0], part[1])
        return jax.tree.map(lambda a, b: a + b / parts, total, found), None

    first = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    return jax.lax.scan(add, first, (jax.random.split(key, parts), jax.tree.map(split, batch)))[0]

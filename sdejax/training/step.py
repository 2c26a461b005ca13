"""One training step, as a pure function of the state."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import constrain_images, constrain_state, replicate, state_shardings
from sdejax.training.objective import Objective, score_matching_loss


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
    model: Model,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    ema_decay: float | tuple[float, ...],
    seed: int,
    *,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[TrainState, jax.Array, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """One jitted update: (state, images, conditions) -> (state, metrics).

    Of `model` the parameters are not used: they are in the state. `conditions` (b, ...) are what its conditioner made
    of the images' prompts, or None.


    Images are (b, h, w, c), float in [-1, 1] or uint8. The state's buffers are donated. All randomness comes from
    (seed, step), so a resumed run repeats it, and is laid out by the image's place in the batch, so any number of
    devices draws the same. A moving average warms up: its decay at step n is at most (1 + n) / (10 + n). The gradient
    is summed over `accumulate` parts of the batch, one after the other. On a `mesh`
    (`sdejax.runtime.sharding.train_mesh`) the
    images are spread over all of it and the state over its axis "fsdp".

    A step whose loss or gradient is not finite changes nothing but the counts in the state; `metrics` has the loss,
    the gradient's norm, and these counts.
    """
    config, sde = model.config, model.sde
    parametrisation, conditioner = model.parametrisation, model.conditioner
    decays = ema_decay if isinstance(ema_decay, tuple) else (ema_decay,)

    def mean_loss(params, key, batch):
        times, noise, images, conditions = batch
        network = FlaxNetwork(config, replicate(params, mesh))
        losses = score_matching_loss(network, sde, parametrisation, times, noise, images, conditions, key)
        return jnp.mean(objective.weights(sde, parametrisation, times) * losses)

    def update(state: TrainState, images: jax.Array, conditions: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        time_key, noise_key, condition_key, dropout_key = jax.random.split(key, 4)
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 127.5 - 1.0
        times = objective.sample_times(time_key, sde, images.shape[0])
        noise = jax.random.normal(noise_key, images.shape)
        if conditions is not None:
            rates = (objective.caption_dropout, objective.word_dropout)
            conditions = conditioner.dropped(condition_key, conditions, *rates)
        batch = constrain_images((times, noise, images, conditions), mesh)
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

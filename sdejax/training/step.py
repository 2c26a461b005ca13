"""One training step, as a pure function of the state."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.typing import ArrayLike

from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import constrain_images, constrain_state, replicate, state_shardings
from sdejax.training.objective import Objective, score_matching_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a run needs to go on.

    - `step`: how many steps were taken, ().
    - `params`: the parameters.
    - `ema`: their moving averages, one tree for each decay.
    - `optimiser`: the optimiser's state.
    - `skipped`: how many steps were skipped because their loss or gradient was not finite, ().
    - `skipped_in_a_row`: how many of these came after the last good step, ().
    """

    step: jax.Array
    params: optax.Params
    ema: tuple[optax.Params, ...]
    optimiser: optax.OptState
    skipped: jax.Array
    skipped_in_a_row: jax.Array


class TrainStep(Protocol):
    """One jitted update."""

    def __call__(
        self, state: TrainState, images: ArrayLike, conditions: ArrayLike | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """The next state, and metrics."""
        ...

    def lower(self, state: TrainState, images: Any, conditions: Any) -> jax.stages.Lowered:
        """Lower the program for arrays, or for their shapes."""
        ...

    def lower_plain(self, state: TrainState, images: Any, conditions: Any) -> jax.stages.Lowered:
        """Lower it without this machine's compiler options, for devices that this machine does not have."""
        ...


def init_state(params: optax.Params, optimiser: optax.GradientTransformation, averages: int = 1) -> TrainState:
    """The state before the first step. Each of the moving averages starts at the parameters."""
    zero = jnp.zeros((), jnp.int32)
    ema = tuple(jax.tree.map(jnp.copy, params) for _ in range(averages))
    return TrainState(zero, params, ema, optimiser.init(params), jnp.copy(zero), jnp.copy(zero))


def abstract_state(
    params: optax.Params, optimiser: optax.GradientTransformation, averages: int, mesh: Mesh
) -> TrainState:
    """The shapes of `init_state` and their sharding on `mesh`. `params` may be shapes, too. Takes no memory."""
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
) -> TrainStep:
    """Make the jitted update (state, images, conditions) -> (state, metrics).

    **Arguments:**

    - `model`: the model. Its parameters are not used, because they are in the state.
    - `objective`, `optimiser`: what is minimised, and how.
    - `ema_decay`: the decay of the moving average, or of each. At step n it is at most (1 + n) / (10 + n).
    - `seed`: all randomness comes from (seed, step), so a resumed run repeats it. It is laid out by the image's place
      in the batch, so it is the same for any number of devices.
    - `accumulate`: the gradient is the sum over this many parts of the batch, computed one after the other.
    - `mesh`: a mesh of `sdejax.runtime.sharding.train_mesh`. Images are spread over all of it, and the state over its
      axis "fsdp".

    **Returns:** the update. `images` are (b, h, w, c), float in [-1, 1] or uint8. `conditions` (b, ...) are what the
    model's conditioner made of the images' prompts, or None. The state's buffers are donated. `metrics` are the loss,
    the norm of the gradient, and the counts of skipped steps. If the loss or gradient is not finite, only the step and
    the counts in the state change.
    """
    decays = ema_decay if isinstance(ema_decay, tuple) else (ema_decay,)

    def mean_loss(params: optax.Params, key: jax.Array, batch: Any) -> jax.Array:
        times, noise, images, conditions = batch
        network = FlaxNetwork(model.config, replicate(params, mesh))
        losses = score_matching_loss(network, model.sde, model.parametrisation, times, noise, images, conditions, key)
        return jnp.mean(objective.weights(model.sde, model.parametrisation, times) * losses)

    def update(
        state: TrainState, images: jax.Array, conditions: jax.Array | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        *keys, dropout_key = jax.random.split(key, 4)
        batch = constrain_images(_drawn(keys, model, objective, images, conditions), mesh)
        loss, gradient = _accumulated(jax.value_and_grad(mean_loss), state.params, dropout_key, batch, accumulate)
        gradient = constrain_state(gradient, mesh)
        norm = optax.tree.norm(gradient)
        new = _advanced(state, gradient, jnp.isfinite(loss) & jnp.isfinite(norm), optimiser, decays)
        metrics = {
            "loss": loss,
            "gradient_norm": norm,
            "skipped": new.skipped,
            "skipped_in_a_row": new.skipped_in_a_row,
        }
        return constrain_state(new, mesh), metrics

    return cast(TrainStep, jit(update, donate_argnums=(0,)))


def _drawn(
    keys: list[jax.Array], model: Model, objective: Objective, images: jax.Array, conditions: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Draw a batch: times, noise, the images in [-1, 1], and the conditions, some of them hidden."""
    time_key, noise_key, condition_key = keys
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 127.5 - 1.0
    times = objective.sample_times(time_key, model.sde, images.shape[0])
    noise = jax.random.normal(noise_key, images.shape)
    if conditions is not None:
        rates = objective.caption_dropout, objective.word_dropout
        conditions = model.conditioner.dropped(condition_key, conditions, *rates)
    return times, noise, images, conditions


def _advanced(
    state: TrainState,
    gradient: optax.Updates,
    finite: jax.Array,
    optimiser: optax.GradientTransformation,
    decays: tuple[float, ...],
) -> TrainState:
    """The state after a step. If the step is not `finite`, only its number and the counts change."""
    change, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, change)
    step = state.step + 1
    ema = tuple(_averaged(decay, step, old, params) for decay, old in zip(decays, state.ema, strict=True))
    params, ema, optimiser_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, ema, optimiser_state),
        (state.params, state.ema, state.optimiser),
    )
    in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
    return TrainState(step, params, ema, optimiser_state, state.skipped + ~finite, in_a_row)


def _averaged(decay: float, step: jax.Array, average: optax.Params, params: optax.Params) -> optax.Params:
    now = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: now * old + (1.0 - now) * new, average, params)


def _accumulated(
    value_and_grad: Callable[..., tuple[jax.Array, optax.Updates]],
    params: optax.Params,
    key: jax.Array,
    batch: Any,
    parts: int,
) -> tuple[jax.Array, optax.Updates]:
    """The mean of the loss and its gradient over the parts of a batch."""
    if parts == 1:
        return value_and_grad(params, key, batch)

    def split(leaf: jax.Array) -> jax.Array:
        # A part takes every parts-th image, so that its images are spread over the devices as the batch was.
        return jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        found = value_and_grad(params, part[0], part[1])
        return jax.tree.map(lambda a, b: a + b / parts, total, found), None

    first = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    return jax.lax.scan(add, first, (jax.random.split(key, parts), jax.tree.map(split, batch)))[0]

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
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from sdejax.compiling import jit
from sdejax.denoiser import denoised, target
from sdejax.model import Parametrisation
from sdejax.nn.text import EMPTY, PAD, UNKNOWN
from sdejax.parallel import constrain_images, constrain_state, replicate, state_shardings
from sdejax.sde import SDE

Weighting = Literal["output", "noise", "likelihood", "edm", "min_snr"]
Times = Literal["log_normal", "uniform", "importance"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimises.

    - `weighting` of noise levels, as in this module's head; `gamma` is that of min_snr.
    - `times`: how they are drawn, always stratified over the batch. "log_normal": log(sigma / alpha) ~
      N(level_mean, level_std^2), clipped to the process's range, the weighting on top (Karras et al. 2022). "uniform":
      t uniform between the process's smallest and largest noise. "importance": log tau uniform there, which is the
      density g^2 / sigma^2 of Song et al. 2021b; the loss is divided by it, so that its mean is that of "uniform" with
      less variance under the likelihood weighting.
    - `caption_dropout` of the captions are hidden (classifier-free guidance); `word_dropout` of the words are replaced
      by the unknown word, so that one unknown word does not spoil a prompt.

    **Raises:** `ValueError` for a field outside its range.
    """

    weighting: Weighting = "output"
    times: Times = "log_normal"
    level_mean: float = -0.4
    level_std: float = 1.6
    gamma: float = 5.0
    caption_dropout: float = 0.1
    word_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("weighting", Weighting), ("times", Times)):
            if getattr(self, name) not in allowed.__args__:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed.__args__)}")
        for name in ("level_std", "gamma"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be finite and above 0")
        for name in ("caption_dropout", "word_dropout"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: must be from 0 to 1")

    def sample_times(self, key: jax.Array, sde: SDE, count: int) -> jax.Array:
        """`count` times in (0, 1), one in each of `count` equally likely strata."""
        shift_key, order_key = jax.random.split(key)
        strata = (jnp.arange(count) + jax.random.uniform(shift_key, (count,))) / count
        quantile = jax.random.permutation(order_key, jnp.clip(strata, 1e-6, 1.0 - 1e-6))
        if self.times == "uniform":
            first, last = _time_range(sde)
            return first + (last - first) * quantile
        if self.times == "importance":
            return sde.time(sde.tau_min * jnp.exp(quantile * math.log(sde.tau_max / sde.tau_min)))
        log_level = self.level_mean + self.level_std * jax.scipy.stats.norm.ppf(quantile)
        return sde.time(jnp.clip(jnp.exp(2.0 * log_level), sde.tau_min, sde.tau_max))

    def weights(self, sde: SDE, parametrisation: Parametrisation, times: jax.Array) -> jax.Array:
        """What |output - target|^2 is multiplied by at `times` (b,), the density of importance sampling included."""
        tau, slope = jax.jvp(sde.tau, (times,), (jnp.ones_like(times),))
        # D is affine in the output: |D - x0|^2 = scale^2 |output - target|^2.
        scale = denoised(
            parametrisation.prediction, sde, times, jnp.zeros_like(tau), jnp.ones_like(tau), parametrisation.data_std
        )
        of_denoiser = {
            "output": 1.0 / jnp.square(scale),
            "noise": 1.0 / tau,
            "likelihood": 0.5 * slope / jnp.square(tau),
            "edm": 1.0 / tau + 1.0 / parametrisation.data_std**2,
            "min_snr": jnp.minimum(1.0 / tau, self.gamma),
        }[self.weighting]
        weights = of_denoiser * jnp.square(scale)
        if self.times == "importance":
            first, last = _time_range(sde)
            weights *= math.log(sde.tau_max / sde.tau_min) * tau / (slope * (last - first))
        return weights


def _time_range(sde: SDE) -> tuple[jax.Array, jax.Array]:
    return sde.time(sde.tau_min), sde.time(sde.tau_max)


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


def score_matching_loss(
    graph: Any,
    sde: SDE,
    parametrisation: Parametrisation,
    params: Any,
    times: jax.Array,
    noise: jax.Array,
    images: jax.Array,
    tokens: jax.Array | None,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """The unweighted loss of each image, (b,): the mean squared error of the output at `times` (b,) under `noise`."""
    network = nnx.merge(graph, params)
    x = sde.perturb(times, images, noise)
    output = parametrisation.evaluate(network, sde, times, x, tokens, dropout_key)
    wanted = target(parametrisation.prediction, sde, times, images, noise, parametrisation.data_std)
    return jnp.mean(jnp.square(output - wanted), axis=(1, 2, 3))


def drop_text(key: jax.Array, tokens: jax.Array, objective: Objective) -> jax.Array:
    """Hide whole captions and single words of tokens (b, words) at the objective's rates."""
    caption_key, word_key = jax.random.split(key)
    hidden = jax.random.bernoulli(word_key, objective.word_dropout, tokens.shape) & (tokens > UNKNOWN)
    tokens = jnp.where(hidden, UNKNOWN, tokens)
    empty = jnp.full_like(tokens, PAD).at[:, 0].set(EMPTY)
    dropped = jax.random.bernoulli(caption_key, objective.caption_dropout, tokens.shape[:1])
    return jnp.where(dropped[:, None], empty, tokens)


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
    is summed over `accumulate` parts of the batch, one after the other. On a `mesh` (`sdejax.parallel.train_mesh`) the
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

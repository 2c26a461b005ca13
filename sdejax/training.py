"""Denoising score matching in continuous time (Song et al. 2021, eq. 7), as pure functions.

The loss of an image is w(t) |output - target|^2 in the space of the network's prediction; in the space of the
denoiser that is a weighting by noise level, which for edm is the one of Karras et al. 2022.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sdejax.compiling import jit
from sdejax.denoiser import target
from sdejax.model import Parametrisation
from sdejax.nn.text import EMPTY, PAD, UNKNOWN
from sdejax.sde import SDE


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimises.

    Noise levels are log-normal: log(sigma / alpha) ~ N(level_mean, level_std^2), clipped to the process's range, and
    stratified over the batch. `caption_dropout` of the captions are hidden (classifier-free guidance);
    `word_dropout` of the words are replaced by the unknown word, so that one unknown word does not spoil a prompt.
    """

    level_mean: float = -0.4
    level_std: float = 1.6
    caption_dropout: float = 0.1
    word_dropout: float = 0.0

    def sample_times(self, key: jax.Array, sde: SDE, count: int) -> jax.Array:
        """`count` times in (0, 1), one in each of `count` equally likely strata of the noise level."""
        shift_key, order_key = jax.random.split(key)
        strata = (jnp.arange(count) + jax.random.uniform(shift_key, (count,))) / count
        quantile = jax.random.permutation(order_key, jnp.clip(strata, 1e-6, 1.0 - 1e-6))
        log_level = self.level_mean + self.level_std * jax.scipy.stats.norm.ppf(quantile)
        return sde.time(jnp.clip(jnp.exp(2.0 * log_level), sde.tau_min, sde.tau_max))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a run needs to go on: step (), parameters, their moving average, the optimiser's state."""

    step: jax.Array
    params: Any
    ema: Any
    optimiser: Any


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
    """The loss of each image, (b,): the mean squared error of the network's output at `times` (b,) under `noise`."""
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


def init_state(params: Any, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step; the moving average starts at the parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimiser.init(params))


def make_train_step(
    graph: Any,
    sde: SDE,
    parametrisation: Parametrisation,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, jax.Array, jax.Array | None], tuple[TrainState, dict[str, jax.Array]]]:
    """One jitted update: (state, images (b, h, w, c) in [-1, 1], tokens (b, words) or None) -> (state, metrics).

    The state's buffers are donated. All randomness comes from (seed, step), so a resumed run repeats it. The moving
    average warms up: its decay at step n is at most (1 + n) / (10 + n).
    """

    def update(
        state: TrainState, images: jax.Array, tokens: jax.Array | None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        time_key, noise_key, text_key, dropout_key = jax.random.split(key, 4)
        times = objective.sample_times(time_key, sde, images.shape[0])
        noise = jax.random.normal(noise_key, images.shape)
        if tokens is not None:
            tokens = drop_text(text_key, tokens, objective)

        def mean_loss(params):
            losses = score_matching_loss(graph, sde, parametrisation, params, times, noise, images, tokens, dropout_key)
            return jnp.mean(losses)

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        change, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, change)
        step = state.step + 1
        decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
        ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.ema, params)
        metrics = {"loss": loss, "gradient_norm": optax.global_norm(gradient)}
        return TrainState(step, params, ema, optimiser_state), metrics

    return jit(update, donate_argnums=(0,))

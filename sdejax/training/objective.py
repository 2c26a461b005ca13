"""What training minimises."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from sdejax.denoiser.prediction import denoised, target
from sdejax.model.parametrisation import Parametrisation
from sdejax.sde.base import SDE
from sdejax.text.vocabulary import EMPTY, PAD, UNKNOWN

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

"""Denoising score matching in continuous time (Song et al. 2021, eq. 7), as pure functions.

With D the denoiser that the network's output means (eq. 6), and tau the noise-to-signal ratio (eq. 2), the loss is

    E_t w(t) E |D(t, x_t) - x0|^2

with one of these weightings w, up to a constant:

    output      the weighting that makes the loss |output - target|^2
    noise       1 / tau, the error of the noise                          (Ho et al. 2020, L_simple)
    likelihood  (dtau/dt) / (2 tau^2), with t uniform: -log p up to a constant  (Song et al. 2021b, theorem 1)
    edm         1 / tau + 1 / data_std^2                                 (Karras et al. 2022, table 1)
    min_snr     min(1 / tau, gamma)                                      (Hang et al. 2023, eq. 9)
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from sdejax.denoiser.prediction import EDM
from sdejax.model.networks import Network
from sdejax.model.parametrisation import Parametrisation
from sdejax.sde.base import SDE
from sdejax.training.check_range import check_range

Weighting = Literal["output", "noise", "likelihood", "edm", "min_snr"]
Times = Literal["log_normal", "uniform", "importance"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimises.

    **Raises:** `ValueError` if a field is outside its range.
    """

    weighting: Weighting = "output"
    """The weighting of the noise levels: the output's own, or that of noise, likelihood, edm or min_snr."""
    times: Times = "log_normal"
    """How times are drawn, always stratified over the batch. "log_normal": log(sigma / alpha) is N(level_mean,
    level_std^2), clipped to the process's range, and the weighting multiplies this density (Karras et al. 2022).
    "uniform": t is uniform between the process's smallest and largest noise. "importance": log tau is uniform there,
    which is the density g^2 / sigma^2 of Song et al. 2021b. The loss is divided by this density, so its mean is that of
    "uniform", with less variance under the likelihood weighting.
    """
    level_mean: float = -0.4
    """The mean of log(sigma / alpha) for log_normal times."""
    level_std: float = 1.6
    """The standard deviation of log(sigma / alpha) for log_normal times."""
    gamma: float = 5.0
    """The largest weight of min_snr."""
    data_std: float = 0.5
    """The standard deviation of the data in the weighting edm. If the prediction is EDM, its own counts."""
    caption_dropout: float = 0.1
    """The share of the captions or classes that are hidden, for classifier-free guidance."""
    word_dropout: float = 0.0
    """The share of the words that are replaced by the unknown word, so that one such word does not spoil a prompt."""

    def __post_init__(self) -> None:
        for name, allowed in (("weighting", Weighting), ("times", Times)):
            if getattr(self, name) not in allowed.__args__:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed.__args__)}")
        for name in ("level_std", "gamma", "data_std"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: must be finite and above 0")
        check_range(self, "caption_dropout", "word_dropout", least=0.0, most=1.0)

    def sample_times(self, key: jax.Array, sde: SDE, count: int) -> jax.Array:
        """Draw `count` times in (0, 1), one in each of `count` equally likely strata."""
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
        """The factors (b,) of |output - target|^2 at `times` (b,). They include the density of importance sampling."""
        tau, slope = jax.jvp(sde.tau, (times,), (jnp.ones_like(times),))
        prediction = parametrisation.prediction
        data_std = prediction.data_std if isinstance(prediction, EDM) else self.data_std
        # D is affine in the output, so |D - x0|^2 = scale^2 |output - target|^2.
        scale = parametrisation.denoised(sde, times, jnp.zeros_like(tau), jnp.ones_like(tau))
        of_denoiser = {
            "output": 1.0 / jnp.square(scale),
            "noise": 1.0 / tau,
            "likelihood": 0.5 * slope / jnp.square(tau),
            "edm": 1.0 / tau + 1.0 / data_std**2,
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
    network: Network,
    sde: SDE,
    parametrisation: Parametrisation,
    times: jax.Array,
    noise: jax.Array,
    images: jax.Array,
    condition: jax.Array | None,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """The unweighted loss of each image, (b,): the mean squared error of the output.

    **Arguments:**

    - `network`, `sde`, `parametrisation`: the model.
    - `times`: (b,).
    - `noise`, `images`: (b, h, w, c).
    - `condition`: what the model's conditioner made of the images' prompts, (b, ...), or None.
    - `dropout_key`: the key of the network's dropout, or None for none.
    """
    x = sde.perturb(times, images, noise)
    output = parametrisation.evaluate(network, sde, times, x, condition, dropout_key)
    wanted = parametrisation.target(sde, times, images, noise)
    return jnp.mean(jnp.square(output - wanted), axis=tuple(range(1, images.ndim)))

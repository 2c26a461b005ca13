"""How a network's input and output relate to the process."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from sdejax.denoiser.prediction import Prediction
from sdejax.sde.base import SDE, per_image

Condition = Literal["time", "log_level", "level", "noise_index"]


@dataclasses.dataclass(frozen=True)
class Parametrisation:
    """How a network's input and output relate to the process; frozen, static under jit.

    `prediction` is what it outputs (eq. 6). `data_std` is the data's standard deviation, which scales edm's input and
    output.

    `condition` is what it is told of the time: "time" 999 t (continuous DDPM++), "log_level" log(sigma / alpha)
    (NCSN++, EDM), or with `levels` = n levels of noise "level" n t - 1 (the number of a DDPM's level) or "noise_index"
    (n - 1)(1 - t) (counted from the largest noise, as the discrete NCSN++ does).

    `unit_range` says that its images were in [0, 1], so that its noise levels are half and its score is twice ours;
    it reads them `centred`, in [-1, 1], or as they are.
    """

    prediction: Prediction = "edm"
    condition: Condition = "log_level"
    data_std: float = 0.5
    levels: int = 1000
    unit_range: bool = False
    centred: bool = True

    def network_input(self, sde: SDE, t: jax.Array, x: jax.Array) -> jax.Array:
        """x scaled to unit variance for edm and v; as it is for the others."""
        if self.unit_range and not self.centred:
            return 0.5 * (x + per_image(sde.alpha(t), x))
        if self.prediction not in ("edm", "v"):
            return x
        alpha, sigma = per_image(sde.alpha(t), x), per_image(sde.sigma(t), x)
        scale = self.data_std if self.prediction == "edm" else 1.0
        return x * jax.lax.rsqrt(jnp.square(sigma) + jnp.square(alpha * scale))

    def label(self, sde: SDE, t: jax.Array) -> jax.Array:
        """What the network is told of the time; the shape of t."""
        if self.condition == "time":
            return 999.0 * t
        if self.condition == "level":
            return jnp.maximum(self.levels * t - 1.0, 0.0)
        if self.condition == "noise_index":
            return (self.levels - 1.0) * (1.0 - t)
        # Finite where tau is not: at RF's t = 1, and at t = 0.
        level = 0.5 * jnp.log(jnp.clip(sde.tau(t), 1e-2 * sde.tau_min, sde.tau_max))
        return level - math.log(2.0) if self.unit_range else level

    def evaluate(
        self, network: Any, sde: SDE, t: jax.Array, x: jax.Array, tokens: jax.Array | None, key: jax.Array | None = None
    ) -> jax.Array:
        """The network's output for x (b, h, w, c) at times t () or (b,), in the units of `denoised` and `target`."""
        # A time of all images is one number up to here: XLA has another logarithm for one number than for several.
        label = jnp.broadcast_to(self.label(sde, t), x.shape[:1])
        output = network(self.network_input(sde, t, x), label, tokens, key)
        return 0.5 * output if self.unit_range and self.prediction == "score" else output

"""How a network's input and output relate to the process: what it predicts, what it is told of the time, its units.

Each convention is one frozen class. A parametrisation is one of each kind:

    Prediction   what the output means (eq. 6, `sdejax.denoiser.prediction`)
    Label        what the network is told of the time
    ImageRange   whether its images are in [-1, 1], as ours, or in [0, 1]
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sdejax.denoiser.prediction import (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    Prediction,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
    PredictVelocity,
)
from sdejax.sde.base import SDE, per_image


@dataclasses.dataclass(frozen=True)
class Label(abc.ABC):
    """What a network is told of the time. Frozen and hashable: static under `jax.jit`."""

    @abc.abstractmethod
    def __call__(self, sde: SDE, t: jax.Array, scale: float) -> jax.Array:
        """The label at times t, of their shape; `scale` are the network's noise levels over ours."""


@dataclasses.dataclass(frozen=True)
class TimeLabel(Label):
    """scale t: 999 t for continuous DDPM++ (Song et al. 2021), 1000 t or t for flow models."""

    scale: float = 999.0

    def __call__(self, sde: SDE, t: jax.Array, scale: float) -> jax.Array:
        """scale t."""
        return self.scale * t


@dataclasses.dataclass(frozen=True)
class LogLevelLabel(Label):
    """log(sigma / alpha), the logarithm of the noise level (NCSN++, EDM). Finite at t = 0 and at RF's t = 1."""

    def __call__(self, sde: SDE, t: jax.Array, scale: float) -> jax.Array:
        """log(scale sigma / alpha)."""
        least, most = 1e-2 * sde.tau_min, sde.tau_max
        clipped = jax.lax.stop_gradient(jnp.clip(sde.tau(t), least, most))
        beyond = (clipped <= least) | (clipped >= most)
        # tau is evaluated where its slope is finite: an infinite slope times 0 would be nan.
        level = 0.5 * jnp.log(jnp.where(beyond, clipped, sde.tau(jnp.where(beyond, 0.5, t))))
        return level if scale == 1.0 else level + math.log(scale)


@dataclasses.dataclass(frozen=True)
class LevelLabel(Label):
    """The number of a DDPM's level, n t - 1 of n `levels`, from 0 on."""

    levels: int = 1000

    def __call__(self, sde: SDE, t: jax.Array, scale: float) -> jax.Array:
        """n t - 1, at least 0."""
        return jnp.maximum(self.levels * t - 1.0, 0.0)


@dataclasses.dataclass(frozen=True)
class NoiseIndexLabel(Label):
    """The number of a noise level, counted from the largest, as the discrete NCSN++ does: (n - 1)(1 - t)."""

    levels: int = 1000

    def __call__(self, sde: SDE, t: jax.Array, scale: float) -> jax.Array:
        """(n - 1)(1 - t)."""
        return (self.levels - 1.0) * (1.0 - t)


@dataclasses.dataclass(frozen=True)
class ImageRange(abc.ABC):
    """The range of a network's images."""

    scale = 1.0

    @abc.abstractmethod
    def read(self, sde: SDE, t: jax.Array, x: jax.Array) -> jax.Array:
        """x as the network reads it."""


@dataclasses.dataclass(frozen=True)
class SymmetricRange(ImageRange):
    """Images in [-1, 1], as ours."""

    def read(self, sde: SDE, t: jax.Array, x: jax.Array) -> jax.Array:
        """x."""
        return x


@dataclasses.dataclass(frozen=True)
class UnitRange(ImageRange):
    """Images in [0, 1], as score_sde's VE networks have them: noise levels are half of ours, the score is twice ours.

    The network reads them `centred`, in [-1, 1], or as they are.
    """

    centred: bool = True
    scale = 0.5

    def read(self, sde: SDE, t: jax.Array, x: jax.Array) -> jax.Array:
        """x if centred, else (x + alpha) / 2."""
        return x if self.centred else 0.5 * (x + per_image(sde.alpha(t), x))


@dataclasses.dataclass(frozen=True)
class Parametrisation:
    """How a network's input and output relate to the process. Frozen and hashable: static under `jax.jit`.

    `prediction`, `condition` (the label) and `images` are one of each kind in this module's head; a name such as
    "noise" stands for the class with its default fields.

    **Raises:** `ValueError` if one is not of its kind, or a prediction has no meaning in other units.
    """

    prediction: Prediction = EDM()
    condition: Label = LogLevelLabel()
    images: ImageRange = SymmetricRange()

    def __post_init__(self) -> None:
        for name, kind in (("prediction", Prediction), ("condition", Label), ("images", ImageRange)):
            value = getattr(self, name)
            if isinstance(value, str) and value in CONVENTIONS:
                object.__setattr__(self, name, value := CONVENTIONS[value]())
            if not isinstance(value, kind):
                allowed = [word for word, cls in CONVENTIONS.items() if issubclass(cls, kind)]
                raise ValueError(
                    f"{name}={value!r}: must be a {kind.__name__}, or the name of one: {', '.join(allowed)}"
                )
        self.prediction.check_scale(self.images.scale)

    def network_input(self, sde: SDE, t: jax.Array, x: jax.Array) -> jax.Array:
        """What the network reads for x (b, *shape) at times t () or (b,)."""
        return self.images.read(sde, t, self.prediction.input(sde, t, x))

    def label(self, sde: SDE, t: jax.Array) -> jax.Array:
        """What the network is told of the time; the shape of t."""
        return self.condition(sde, t, self.images.scale)

    def denoised(self, sde: SDE, t: jax.Array, x: jax.Array, output: jax.Array) -> jax.Array:
        """D of eq. 6, from an output in our units."""
        return self.prediction.denoised(sde, t, x, output)

    def target(self, sde: SDE, t: jax.Array, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """What the network is trained to output for the pair (x0, noise)."""
        return self.prediction.target(sde, t, x0, noise)

    def evaluate(
        self,
        network: Callable[..., jax.Array],
        sde: SDE,
        t: jax.Array,
        x: jax.Array,
        condition: Any,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The network's output for x (b, *shape) at times t () or (b,), in our units.

        `condition` is what the conditioner made of the prompts; `key` is for dropout.
        """
        # A time of all images is one number up to here: XLA has another logarithm for one number than for several.
        label = jnp.broadcast_to(self.label(sde, t), x.shape[:1])
        inputs = (self.network_input(sde, t, x), label, condition)
        output = network(*inputs) if key is None else network(*inputs, key)
        return self.prediction.rescaled(output, self.images.scale)


CONVENTIONS: dict[str, type[Prediction | Label | ImageRange]] = {
    "clean_image": PredictCleanImage,
    "x0": PredictCleanImage,
    "noise": PredictNoise,
    "v": PredictV,
    "velocity": PredictVelocity,
    "displacement": PredictDisplacement,
    "edm": EDM,
    "score": PredictScore,
    "scaled_score": PredictScaledScore,
    "time": TimeLabel,
    "log_level": LogLevelLabel,
    "level": LevelLabel,
    "noise_index": NoiseIndexLabel,
    "symmetric": SymmetricRange,
    "unit_range": UnitRange,
}
"""The one list of conventions, by the names that stand for them with their default fields."""

"""How the noise of the edit is related to the noise of the given image.

    (14)  synchronous(N)   both take the noise of one path; with N paths, z_1 .. z_N have a path each and the edit is
                           driven by the mean over them (14b)
          resampled(N)     the image's noise is drawn afresh at every step; N draws are averaged (FlowEdit's n_avg)
          independent      the edit's noise is that of a path of its own
          correlated(rho)  its noise has correlation rho with the image's
          reflection       its noise is the image's, mirrored in the plane between the two

What is integrated is the noise of the image's state and the change d = y - z (eq. 11), so a coupling says what noise
the change takes: none if y and z share it. A coupling of your own is another subclass of `Coupling`.
"""

import abc
import dataclasses
import math
import re

import jax
import jax.numpy as jnp

from sdejax.solvers.problem import State


@dataclasses.dataclass(frozen=True)
class Coupling(abc.ABC):
    """A coupling of the edit's noise with the image's (eq. 14). Frozen and hashable: static under jit."""

    @property
    def copies(self) -> int:
        """How many noisy copies z of the image there are; the edit is driven by the mean over them."""
        return 1

    @property
    def paths(self) -> int:
        """How many Brownian paths an image needs; the first `copies` are those of the copies."""
        return self.copies

    @property
    def multiplicative(self) -> bool:
        """Whether the noise of the change depends on the change."""
        return False

    def stochasticity(self, lam: float) -> float:
        """lam of the image's noise, given the sampler's. Infinity draws the noise afresh at every step."""
        return lam

    @abc.abstractmethod
    def difference(self, change: jax.Array, unit: State) -> jax.Array | None:
        """The noise of the change: y's unit noise less z's, (b, *shape); None if they are the same.

        `unit` are the unit noises of the `paths`. For y's noise to be white, unit[0] + difference must be N(0, I).
        """

    @classmethod
    def parse(cls, text: "str | Coupling") -> "Coupling":
        """The coupling of a text such as "synchronous", "synchronous(4)", "resampled(4)" or "correlated(0.5)".

        **Raises:** `ValueError` for anything else.
        """
        if isinstance(text, Coupling):
            return text
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([-+.\deE]+)\s*\))?\s*", text) if isinstance(text, str) else None
        kind = _NAMED.get(match[1]) if match else None
        allowed = "synchronous, synchronous(N), resampled, resampled(N), independent, correlated(RHO) or reflection"
        if match is None or kind is None:
            raise ValueError(f"coupling={text!r}: must be {allowed}")
        try:
            return kind() if match[2] is None else kind(_number(match[2]))  # pyright: ignore[reportCallIssue]
        except TypeError:
            raise ValueError(f"coupling={text!r}: must be {allowed}") from None
        except ValueError as error:
            raise ValueError(f"coupling={text!r}: {error}") from None


@dataclasses.dataclass(frozen=True)
class Synchronous(Coupling):
    """One path for image and edit: the noise cancels in the change. With `count` paths the edit averages over them."""

    count: int = 1

    def __post_init__(self) -> None:
        _check_count("count", self.count)

    @property
    def copies(self) -> int:
        """`count`."""
        return self.count

    def difference(self, change: jax.Array, unit: State) -> None:
        """None."""


@dataclasses.dataclass(frozen=True)
class Resampled(Coupling):
    """The image's noise is drawn afresh at every step; `redraws` draws are averaged."""

    redraws: int = 1

    def __post_init__(self) -> None:
        _check_count("redraws", self.redraws)

    @property
    def copies(self) -> int:
        """`redraws`."""
        return self.redraws

    def stochasticity(self, lam: float) -> float:
        """Infinity, whatever the sampler's."""
        del lam
        return math.inf

    def difference(self, change: jax.Array, unit: State) -> None:
        """None."""


@dataclasses.dataclass(frozen=True)
class Correlated(Coupling):
    """y's noise is rho times z's and sqrt(1 - rho^2) times that of a path of its own."""

    rho: float

    def __post_init__(self) -> None:
        if not -1.0 <= self.rho <= 1.0:
            raise ValueError(f"rho={self.rho}: must be in [-1, 1]")

    @property
    def paths(self) -> int:
        """2."""
        return 2

    def difference(self, change: jax.Array, unit: State) -> jax.Array:
        """(rho - 1) xi_z + sqrt(1 - rho^2) xi."""
        return (self.rho - 1.0) * unit[0] + math.sqrt(1.0 - self.rho**2) * unit[1]


@dataclasses.dataclass(frozen=True)
class Independent(Coupling):
    """y's noise is that of a path of its own."""

    @property
    def paths(self) -> int:
        """2."""
        return 2

    def difference(self, change: jax.Array, unit: State) -> jax.Array:
        """xi - xi_z."""
        return unit[1] - unit[0]


@dataclasses.dataclass(frozen=True)
class Reflection(Coupling):
    """y's noise is z's, mirrored in the plane between y and z: along the change it has the opposite sign."""

    @property
    def multiplicative(self) -> bool:
        """True."""
        return True

    def difference(self, change: jax.Array, unit: State) -> jax.Array:
        """-2 (u . xi_z) u, u the direction of the change."""
        axes = tuple(range(1, change.ndim))
        squared = jnp.sum(jnp.square(change), axes, keepdims=True)
        along = jnp.sum(change * unit[0], axes, keepdims=True) / jnp.where(squared > 0.0, squared, 1.0)
        return -2.0 * along * change


_NAMED: dict[str, type[Coupling]] = {
    "synchronous": Synchronous,
    "resampled": Resampled,
    "independent": Independent,
    "correlated": Correlated,
    "reflection": Reflection,
}


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a whole number of at least 1")

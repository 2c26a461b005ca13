"""One integrator for a pair of states on one path: z, the given image's, and y, the edit's.

    (11) z = alpha x0 + n is the given image x0 under noise n, the forward process conditioned on x0 and run
         backwards: eq. 9 with D_z = x0 known exactly, so its law is right on any grid. y takes the same step with the
         same unit noise and a denoiser D_y of its own. Where the image must be kept, y = z.

Eq. 9 is linear, so what is integrated is the noise n (eq. 9 with D = 0) and the change d = y - z, in which a shared
noise cancels:

         d' = sigma'/sigma q^(lam^2/2) d + alpha' (1 - q^p) (D_y - x0)

The result is x0 plus the last change. An edit with D_y = x0 returns the image exactly, and so does a pixel that the
mask keeps: its change is 0, not small.

    (14) the couplings, by how n is drawn: "synchronous" one path for both; "resampled" afresh at every step (n_avg
         redraws are averaged); "independent", "correlated(rho)" and "reflection" give y a noise of its own.
"""

import dataclasses
import math
import re
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import STATIC, PerImage, pytree
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import mesh_of, over_images
from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.problem import Components, Problem, State
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import solve

Array = jax.Array | np.ndarray
_KINDS = ("synchronous", "resampled", "independent", "correlated", "reflection")


@dataclasses.dataclass(frozen=True)
class Coupling:
    """How the noises of z and y are related (eq. 14). Frozen and hashable: static under jit.

    `rho` is the correlation of "correlated", in [-1, 1]; `redraws` the number of draws per step of "resampled".
    """

    kind: str = "synchronous"
    rho: float = 0.0
    redraws: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"coupling={self.kind!r}: must be one of {', '.join(_KINDS)}")
        if not -1.0 <= self.rho <= 1.0:
            raise ValueError(f"coupling rho={self.rho}: must be in [-1, 1]")
        if self.redraws < 1:
            raise ValueError(f"coupling redraws={self.redraws}: must be at least 1")

    @classmethod
    def parse(cls, text: "str | Coupling") -> "Coupling":
        """ "synchronous", "resampled", "resampled(4)", "independent", "correlated(0.5)" or "reflection"."""
        if isinstance(text, Coupling):
            return text
        match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([-+.\deE]+)\s*\))?\s*", text)
        try:
            if match and match[2] is None and match[1] != "correlated":
                return cls(match[1])
            if match and match[2] is not None and match[1] == "correlated":
                return cls("correlated", rho=float(match[2]))
            if match and match[2] is not None and match[1] == "resampled":
                return cls("resampled", redraws=int(match[2]))
        except ValueError as error:
            raise ValueError(f"coupling={text!r}: {error}") from None
        raise ValueError(
            f"coupling={text!r}: must be synchronous, resampled, resampled(N), independent, correlated(RHO) "
            "or reflection"
        )

    @property
    def paths(self) -> int:
        """How many Brownian paths an image needs."""
        return {"resampled": self.redraws, "independent": 2, "correlated": 2}.get(self.kind, 1)

    @property
    def copies(self) -> int:
        """How many noisy copies z of the image there are."""
        return self.redraws if self.kind == "resampled" else 1

    def stochasticity(self, lam: float) -> tuple[float, ...]:
        """lam of each noise and of the change; a noise drawn afresh at every step is lam = infinity."""
        return ((math.inf if self.kind == "resampled" else lam),) * self.copies + (lam,)

    def difference(self, change: jax.Array, unit: State) -> jax.Array | None:
        """The unit noise of y less that of z; None where it cancels."""
        if self.kind in ("independent", "correlated"):
            return (self.rho - 1.0) * unit[0] + math.sqrt(1.0 - self.rho**2) * unit[1]
        if self.kind == "reflection":
            # y's noise is z's, mirrored in the plane between them.
            axes = tuple(range(1, change.ndim))
            squared = jnp.sum(jnp.square(change), axes, keepdims=True)
            along = jnp.sum(change * unit[0], axes, keepdims=True) / jnp.where(squared > 0.0, squared, 1.0)
            return -2.0 * along * change
        return None


class Rule(Protocol):
    """What an editor is: a callable pytree that gives D_y - x0."""

    def __call__(self, t: jax.Array, z: jax.Array, y: jax.Array, image: jax.Array) -> jax.Array:
        """D_y(t) - x0 for the given image's state z, the edit's state y and the image x0, all (b, *shape)."""
        ...


@pytree
@dataclasses.dataclass(frozen=True)
class _Pair:
    """The drive of (n, ..., d): noises that nothing drives, and the change that the rule drives."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    coupling: Coupling = dataclasses.field(metadata=STATIC)
    rule: Rule
    image: PerImage

    def __call__(self, t: jax.Array, state: State) -> tuple[jax.Array | None, ...]:
        *noises, change = state
        image = self.image.value
        pulls = []
        for noise in noises:
            # Behind the barrier, equal states are equal to the last bit in both denoisers, however XLA fuses them.
            z = self.sde.alpha(t) * image + noise
            z, y = jax.lax.optimization_barrier((z, z + change))
            pulls.append(self.rule(t, z, y, image))
        return (None,) * len(noises) + (sum(pulls[1:], pulls[0]) / len(pulls),)

    def noise(self, state: State, unit: State) -> tuple[jax.Array | None, ...]:
        return (*unit[: len(state) - 1], self.coupling.difference(state[-1], unit))


@partial(jit, static_argnames=("sde", "sampler", "coupling", "layout"))
def _edit(rule, image, keys, strength, mask, repeats, fresh, sde, sampler, coupling, layout):
    def run(shared, image, keys, mask):
        rule, strength, repeats, fresh = shared
        components = Components(
            coupling.stochasticity(sampler.stochasticity),
            (False,) * coupling.copies + (True,),
            coupling.paths,
            coupling.kind == "reflection",
        )

        def once(k, image):
            own = stream(keys, jnp.where(fresh, k, 0))
            shape = image.shape[1:]
            noises = tuple(
                sde.sigma(strength) * BrownianPaths(stream(own, i), shape).start() for i in range(coupling.copies)
            )
            drive = _Pair(sde, coupling, rule, PerImage(image))
            problem = Problem(drive, components, sde, own, mask * strength)
            *_, change = solve(problem, (*noises, jnp.zeros_like(image)), strength, sampler)
            return image + change

        return jax.lax.fori_loop(0, repeats, once, image)

    return over_images(run, layout, (rule, strength, repeats, fresh), (image, keys, mask))


def edit(
    rule: Rule,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike,
    mask: ArrayLike | None = None,
    repeats: int = 1,
    fresh_noise: bool = True,
    sampler: Sampler | None = None,
    coupling: str | Coupling = "synchronous",
) -> jax.Array:
    """Integrate the pair of eq. 11 with the rule of an editor; `sdedit` and `sync_sde` document the arguments.

    **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    check_keys(keys)
    sampler, coupling = sampler or Sampler(), Coupling.parse(coupling)
    if coupling.kind == "resampled" and isinstance(sampler.solver, Exponential):
        # A noise without memory leaves nothing to extrapolate from.
        sampler = dataclasses.replace(sampler, solver=Exponential(1))
    image = check_image(image, keys)
    if not isinstance(repeats, Tracer) and (int(repeats) != repeats or repeats < 1):
        raise ValueError(f"repeats={repeats}: must be a whole number of at least 1")
    check_strength(strength)
    mask = check_mask(mask, image)
    return _edit(
        rule,
        for_each_key(image, image.shape[1:], keys),
        keys,
        array_of(strength, image.dtype),
        for_each_key(mask, image.shape[1:], keys),
        array_of(repeats, jnp.int32),
        array_of(fresh_noise, bool),
        sde,
        sampler,
        coupling,
        mesh_of(keys),
    )


def array_of(value: ArrayLike, dtype: DTypeLike | None = None) -> Array:
    """An array, of that type: jax's where the value is one, else numpy's, for which jax compiles and awaits nothing."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype) if dtype is None else dtype)


def for_each_key(array: Array, shape: tuple[int, ...], keys: jax.Array) -> Array:
    """An image or a mask, broadcast to one of that shape for each key, on the devices where the keys are."""
    full = (keys.shape[0], *shape)
    if isinstance(array, jax.Array):
        return jnp.broadcast_to(array, full)
    array = np.broadcast_to(array, full)
    return array if isinstance(keys, Tracer) or not keys.committed else jax.device_put(array, keys.sharding)


def check_image(image: ArrayLike, keys: jax.Array) -> Array:
    """**Raises:** `ValueError` unless `image` is floating point and one for each key, or one for all of them."""
    image = array_of(image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image dtype={image.dtype}: must be floating point, in [-1, 1] (sdejax.media.images.to_array)"
        )
    if image.ndim < 2 or image.shape[0] not in (1, keys.shape[0]):
        raise ValueError(
            f"image shape={image.shape}: must be (b, *shape) with b = 1 or the number of keys, {keys.shape[0]}"
        )
    return image


def check_strength(strength: ArrayLike) -> None:
    """**Raises:** `ValueError` unless `strength` is one number in (0, 1]."""
    if isinstance(strength, Tracer):
        return
    if np.ndim(strength) != 0 or not 0.0 < float(np.asarray(strength)) <= 1.0:
        raise ValueError(f"strength={strength}: must be one number in (0, 1], the time that the edit starts from")


def check_mask(mask: ArrayLike | None, image: Array) -> Array:
    """The mask lined up with the image: per value, or per pixel without the axis of channels.

    The values of one that is jax's are awaited, and with them all that its device was given before.

    **Raises:** `ValueError` where it does not fit the image, or a value is outside [0, 1].
    """
    if mask is None:
        return np.ones((), image.dtype)
    mask = array_of(mask, image.dtype)
    if image.ndim > 2 and mask.shape in (image.shape[1:-1], image.shape[:-1], (1, *image.shape[1:-1])):
        mask = mask[..., None]
    try:
        fits = np.broadcast_shapes(mask.shape, image.shape)[1:] == image.shape[1:]
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask shape={mask.shape}: must be that of the image, {image.shape}, or broadcast to it")
    if not isinstance(mask, Tracer) and not bool(((mask >= 0.0) & (mask <= 1.0)).all()):
        raise ValueError("mask: every value must be in [0, 1], 0 keeps the pixel and 1 edits it fully")
    return mask

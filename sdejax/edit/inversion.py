"""Editors that first run the image up to noise, and then the noise down to the edit: their baselines' shared idea.

They are ordinary differential equations, best written for rectified flow; any process is one after a change of scale
and clock. With r = sigma / (alpha + sigma) the share of noise and u = x / (alpha + sigma),

    (18)  u = (1 - r) x0 + r e,   du/dr = v,   v = (u - D) / r

and an Euler step in r is eq. 9 with lam = 0, whatever the process.

    ODE inversion  (DDIM inversion, Song et al. 2021; Mokady et al. 2023)  Euler with v_source up, v_target down.
    FireFlow       (Deng et al. 2025)  a midpoint rule of second order that costs one evaluation a step: the velocity
                   which leads to the midpoint is that of the midpoint before.
    RF-Inversion   (Rout et al. 2025)  controlled velocities: up, v + gamma ((e1 - u) / (1 - r) - v) leads to a noise e1
                   of the image's key; down, v + eta ((u - x0) / r - v) leads back to the image.

At r = 0 the noise is unknown and its mean is 0: the first step up, to the smallest level, is u = (1 - r) x0. The last
down is eq. 9's, D itself. Where the image must be kept, or has not begun to be edited, u is on the straight line (18)
between the image and its own inverted noise.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.pair import array_of, check_image, check_mask, check_strength, for_each_key
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import STATIC, pytree
from sdejax.runtime.jit import jit
from sdejax.runtime.sharding import mesh_of, over_images
from sdejax.sde.base import SDE
from sdejax.solvers.grids import GridChoice
from sdejax.solvers.sampler import Sampler

_Velocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # r (), t (), u (b, *shape) -> du/dr


@pytree
@dataclasses.dataclass(frozen=True)
class _Flow:
    """v of eq. 18 at the share of noise r > 0, which is time t."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    denoiser: Denoiser

    def __call__(self, r: jax.Array, t: jax.Array, u: jax.Array) -> jax.Array:
        return (u - self.denoiser(t, (self.sde.alpha(t) + self.sde.sigma(t)) * u)) / r


def _euler(velocity: _Velocity, sde: SDE, u: jax.Array, r: jax.Array, t: jax.Array, hold) -> jax.Array:
    """Along the times t (n,), whose shares of noise are r: n - 1 evaluations."""
    del sde

    def step(u, interval):
        r, r_next, t, t_next = interval
        return hold(r_next, t_next, u + (r_next - r) * velocity(r, t, u)), None

    return jax.lax.scan(step, u, (r[:-1], r[1:], t[:-1], t[1:]))[0]


def _midpoint(velocity: _Velocity, sde: SDE, u: jax.Array, r: jax.Array, t: jax.Array, hold) -> jax.Array:
    """FireFlow's steps along the times t (n,): n evaluations."""

    def step(carry, interval):
        u, before = carry
        r, r_next, t_next = interval
        middle, half = 0.5 * (r + r_next), 0.5 * (r_next - r)
        now = velocity(middle, sde.time(jnp.square(middle / (1.0 - middle))), u + half * before)
        return (hold(r_next, t_next, u + 2.0 * half * now), now), None

    return jax.lax.scan(step, (u, velocity(r[0], t[0], u)), (r[:-1], r[1:], t[1:]))[0][0]


_STEPS = {"euler": _euler, "midpoint": _midpoint}


@partial(jit, static_argnames=("sde", "steps", "grid", "rule", "layout"))
def _invert(source, target, image, mask, keys, strength, control, sde, steps, grid, rule, layout):
    def run(shared, image, mask, keys):
        source, target, strength, (gamma, eta, controlled) = shared
        t = Sampler(steps, grid).times(sde, strength)
        r = sde.sigma(t) / (sde.alpha(t) + sde.sigma(t))
        begin = mask * strength
        up, down = _Flow(sde, source), _Flow(sde, target)
        follow = _STEPS[rule]
        towards = None if keys is None else BrownianPaths(stream(stream(keys, 0), 0), image.shape[1:]).start()
        until = r[jnp.minimum(jnp.round(controlled * steps).astype(jnp.int32), steps - 1)]

        def climb(r, t, u):
            velocity = up(r, t, u)
            return velocity if towards is None else velocity + gamma * ((towards - u) / (1.0 - r) - velocity)

        def descend(r, t, u):
            pull = jnp.where((r > until) | (controlled >= 1.0), eta, 0.0)
            velocity = down(r, t, u)
            return velocity + pull * ((u - image) / r - velocity)

        u = (1.0 - r[-1]) * image
        if towards is not None:
            u = u + gamma * r[-1] * towards
        u = follow(climb, sde, u, r[::-1], t[::-1], lambda r, t, u: u)
        noise = (u - (1.0 - r[0]) * image) / r[0]

        def hold(r, t, u):
            return jnp.where((begin >= t) & (begin > 0.0), u, (1.0 - r) * image + r * noise)

        u = follow(descend, sde, hold(r[0], t[0], u), r, t, hold)
        result = u - r[-1] * descend(r[-1], t[-1], u)
        return jnp.where((begin >= t[-1]) & (begin > 0.0), result, image)

    return over_images(run, layout, (source, target, strength, control), (image, mask, keys))


def _edit(source, target, sde, image, keys, strength, mask, steps, grid, rule, control=(0.0, 0.0, 0.0), noisy=False):
    check_keys(keys)
    image = check_image(image, keys)
    check_strength(strength)
    Sampler(steps, grid)  # refuses what it cannot follow
    return _invert(
        source,
        target,
        for_each_key(image, image.shape[1:], keys),
        for_each_key(check_mask(mask, image), image.shape[1:], keys),
        keys if noisy else None,
        array_of(strength, image.dtype),
        tuple(array_of(value, image.dtype) for value in control),
        sde,
        steps,
        grid,
        rule,
        mesh_of(keys),
    )


def ode_inversion(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    steps: int = 50,
    grid: GridChoice = "log_snr",
) -> jax.Array:
    """ODE inversion (DDIM inversion): the probability flow up with the source, and down with the target (eq. 18).

    First order: with one denoiser for both, the image comes back with an error in proportion to 1 / steps.

    **Arguments:** as those of `sync_sde`; `steps` up and `steps` down cost 2 steps - 1 denoiser calls. The keys say how
    many results there are, and where; nothing is drawn from them. A masked value is held on the straight line between
    the image and its inverted noise.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    return _edit(source, target, sde, image, keys, strength, mask, steps, grid, "euler")


def fire_flow(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    steps: int = 50,
    grid: GridChoice = "log_snr",
) -> jax.Array:
    """FireFlow (Deng et al. 2025): ODE inversion by a midpoint rule of second order at a first-order rule's cost.

    The paper's steps are uniform in the share of noise: `grid="time"` under `RectifiedFlow`.

    **Arguments:** as those of `ode_inversion`; 2 steps + 1 denoiser calls.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    return _edit(source, target, sde, image, keys, strength, mask, steps, grid, "midpoint")


def rf_inversion(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    steps: int = 28,
    grid: GridChoice = "log_snr",
    gamma: ArrayLike = 0.5,
    eta: ArrayLike = 0.9,
    controlled: ArrayLike = 0.25,
) -> jax.Array:
    """RF-Inversion (Rout et al. 2025): ODE inversion, drawn to a noise on the way up and to the image on the way down.

    **Arguments:** as those of `ode_inversion`, and

    - `source`: the paper's is unconditional, `model.denoiser()`.
    - `keys`: (b,); result k depends on key k and image k alone.
    - `gamma`: in [0, 1], the pull of the noise of the key; 1 is SDEdit's noise, 0 ODE inversion.
    - `eta`: in [0, 1], the pull of the image; 1 all the way returns it.
    - `controlled`: in [0, 1], the share of the steps down that the image pulls; the paper's are the first quarter.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    control = {"gamma": gamma, "eta": eta, "controlled": controlled}
    for name, value in control.items():
        if not isinstance(value, Tracer) and (np.ndim(value) or not 0.0 <= float(np.asarray(value)) <= 1.0):
            raise ValueError(f"{name}={value}: must be one number in [0, 1]")
    return _edit(
        source, target, sde, image, keys, strength, mask, steps, grid, "euler", (gamma, eta, controlled), noisy=True
    )

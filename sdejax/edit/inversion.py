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
down is eq. 9's, D itself. If the image must be kept, or has not begun to be edited, u is on the straight line (18)
between the image and its own inverted noise.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.baselines import steps_of
from sdejax.edit.checks import array_of, check_image, check_mask, check_share, check_strength, for_each_key
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import STATIC, pytree
from sdejax.runtime.jit import jit
from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.solvers.solve import OnStep

_Velocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # r (), t (), u (b, *shape) -> du/dr


@pytree
@dataclasses.dataclass(frozen=True)
class _Flow:
    """v of eq. 18 at the share of noise r > 0, which is time t."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    denoiser: Denoiser

    def __call__(self, r: jax.Array, t: jax.Array, u: jax.Array) -> jax.Array:
        return (u - self.denoiser(t, (self.sde.alpha(t) + self.sde.sigma(t)) * u)) / r


@pytree
@dataclasses.dataclass(frozen=True)
class _Grid:
    """Times t and their shares of noise r, and those of the next step; each (n,)."""

    r: jax.Array
    t: jax.Array
    r_next: jax.Array
    t_next: jax.Array

    @classmethod
    def along(cls, r: jax.Array, t: jax.Array) -> "_Grid":
        """n times make n - 1 steps."""
        return cls(r[:-1], t[:-1], r[1:], t[1:])


class _Rule(Protocol):
    """How du/dr is stepped: a frozen dataclass. `memory` is the velocity that a step hands to the next."""

    def start(self, velocity: _Velocity, u: jax.Array, r: jax.Array, t: jax.Array) -> jax.Array | None:
        """The memory before the first step."""
        ...

    def step(
        self, velocity: _Velocity, sde: SDE, u: jax.Array, memory: jax.Array | None, now: _Grid
    ) -> tuple[jax.Array, jax.Array | None]:
        """u at now.r_next, and the memory."""
        ...


@dataclasses.dataclass(frozen=True)
class _Euler:
    """One evaluation a step."""

    def start(self, velocity, u, r, t):
        return None

    def step(self, velocity, sde, u, memory, now):
        return u + (now.r_next - now.r) * velocity(now.r, now.t, u), None


@dataclasses.dataclass(frozen=True)
class _Midpoint:
    """FireFlow's steps: one evaluation a step, and one before the first."""

    def start(self, velocity, u, r, t):
        return velocity(r, t, u)

    def step(self, velocity, sde, u, memory, now):
        middle, half = 0.5 * (now.r + now.r_next), 0.5 * (now.r_next - now.r)
        at_middle = velocity(middle, sde.time(jnp.square(middle / (1.0 - middle))), u + half * memory)
        return u + 2.0 * half * at_middle, at_middle


@pytree
@dataclasses.dataclass(frozen=True)
class _Control:
    """RF-Inversion's pulls: `gamma` up to the key's noise, `eta` down to the image in the first `share` of steps."""

    gamma: Any = 0.0  # numbers, or arrays ()
    eta: Any = 0.0
    share: Any = 0.0


@pytree
@dataclasses.dataclass(frozen=True)
class _Descent:
    """The way down from the inverted noise, whose velocity is the target's, drawn to the image by the control."""

    sde: SDE = dataclasses.field(metadata=STATIC)
    target: Denoiser
    control: _Control
    until: jax.Array

    def velocity(self, image: jax.Array) -> _Velocity:
        """du/dr of one image."""
        flow = _Flow(self.sde, self.target)

        def descend(r, t, u):
            pull = jnp.where((r > self.until) | (self.control.share >= 1.0), self.control.eta, 0.0)
            velocity = flow(r, t, u)
            return velocity + pull * ((u - image) / r - velocity)

        return descend


def _shares(sde, sampler, strength):
    """The times of the grid, and their shares of noise r = sigma / (alpha + sigma)."""
    t = sampler.times(sde, strength)
    return t, sde.sigma(t) / (sde.alpha(t) + sde.sigma(t))


def _follow(rule: _Rule, velocity: _Velocity, sde: SDE, u: jax.Array, r: jax.Array, t: jax.Array, hold) -> jax.Array:
    """Along the times t (n,), whose shares of noise are r."""

    def step(carry, now):
        u, memory = rule.step(velocity, sde, carry[0], carry[1], now)
        return (hold(now.r_next, now.t_next, u), memory), None

    return jax.lax.scan(step, (u, rule.start(velocity, u, r[0], t[0])), _Grid.along(r, t))[0][0]


def _climb(source, image, mask, keys, strength, control, sde, sampler, rule):
    """Up to the noise: (u at the start, the noise that the image is inverted to, the descent)."""
    t, r = _shares(sde, sampler, strength)
    up = _Flow(sde, source)
    towards = None if keys is None else BrownianPaths(stream(stream(keys, 0), 0), image.shape[1:]).start()

    def climb(r, t, u):
        velocity = up(r, t, u)
        return velocity if towards is None else velocity + control.gamma * ((towards - u) / (1.0 - r) - velocity)

    u = (1.0 - r[-1]) * image
    if towards is not None:
        u = u + control.gamma * r[-1] * towards
    u = _follow(rule, climb, sde, u, r[::-1], t[::-1], lambda r, t, u: u)
    noise = (u - (1.0 - r[0]) * image) / r[0]
    return _hold(image, mask * strength, noise, r[0], t[0], u), noise


def _hold(image, begin, noise, r, t, u):
    """u, but for values that have not begun at t the straight line between the image and its noise."""
    return jnp.where((begin >= t) & (begin > 0.0), u, (1.0 - r) * image + r * noise)


def _descent(target, strength, control, sde, sampler):
    _, r = _shares(sde, sampler, strength)
    until = r[jnp.minimum(jnp.round(control.share * sampler.steps).astype(jnp.int32), sampler.steps - 1)]
    return _Descent(sde, target, control, until)


def _ended(descend: _Velocity, image, begin, r, t, u):
    """The last step: eq. 9's, D itself, and the image if a value has not begun."""
    return jnp.where((begin >= t) & (begin > 0.0), u - r * descend(r, t, u), image)


_STATIC = ("sde", "sampler", "rule")


@partial(jit, static_argnames=_STATIC, images=("image", "mask", "keys"))
def _invert(source, target, image, mask, keys, strength, control, sde, sampler, rule):
    t, r = _shares(sde, sampler, strength)
    begin = mask * strength
    u, noise = _climb(source, image, mask, keys, strength, control, sde, sampler, rule)
    descend = _descent(target, strength, control, sde, sampler).velocity(image)
    u = _follow(rule, descend, sde, u, r, t, partial(_hold, image, begin, noise))
    return _ended(descend, image, begin, r[-1], t[-1], u)


@partial(jit, static_argnames=_STATIC, images=("image", "mask", "keys"))
def _climbed(source, image, mask, keys, strength, control, sde, sampler, rule):
    return _climb(source, image, mask, keys, strength, control, sde, sampler, rule)


@partial(jit, static_argnames=_STATIC, images=("image", "mask", "u"))
def _started(target, image, mask, u, strength, control, sde, sampler, rule):
    t, r = _shares(sde, sampler, strength)
    del mask
    return rule.start(_descent(target, strength, control, sde, sampler).velocity(image), u, r[0], t[0])


@partial(jit, static_argnames=_STATIC, images=("image", "mask", "noise", "u", "memory"))
def _step(target, image, mask, noise, u, memory, now, strength, control, sde, sampler, rule):
    """A step down, and the D of its beginning."""
    descend = _descent(target, strength, control, sde, sampler).velocity(image)
    expected = _ended(descend, image, mask * strength, now.r, now.t, u)
    u, memory = rule.step(descend, sde, u, memory, now)
    return _hold(image, mask * strength, noise, now.r_next, now.t_next, u), memory, expected


def _watched(source, target, image, mask, keys, strength, control, sde, sampler, rule, on_step):
    """`_invert`, whose way down goes step by step."""
    how = (strength, control, sde, sampler, rule)
    u, noise = _climbed(source, image, mask, keys, *how)
    memory = _started(target, image, mask, u, *how)
    t, r = (np.append(x, x[-1]) for x in jax.tree.map(np.asarray, _shares(sde, sampler, jnp.asarray(strength))))
    expected = image
    for number in range(sampler.steps):
        now = _Grid(r[number], t[number], r[number + 1], t[number + 1])
        u, memory, expected = _step(target, image, mask, noise, u, memory, now, *how)
        if on_step(number, float(t[number]), expected) is False:
            break
    return expected


def _edit(
    source, target, sde, image, keys, strength, mask, sampler, on_step, name, rule, control=_Control(), noisy=False
):
    check_keys(keys)
    image = check_image(image, keys)
    check_strength(strength)
    given = (
        source,
        target,
        for_each_key(image, image.shape[1:], keys),
        for_each_key(check_mask(mask, image), image.shape[1:], keys),
        keys if noisy else None,
        array_of(strength, image.dtype),
        jax.tree.map(lambda value: array_of(value, image.dtype), control),
        sde,
        with_grid(steps_of(sampler, name, Exponential(1), 0.0), "log_snr"),
        rule,
    )
    return _invert(*given) if on_step is None else _watched(*given, on_step)


def ode_inversion(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    sampler: Sampler | None = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """ODE inversion (DDIM inversion): the probability flow up with the source, and down with the target (eq. 18).

    First order: with one denoiser for both, the image comes back with an error in proportion to 1 / steps.

    **Arguments:** as those of `sync_sde`, and

    - `keys`: say how many results there are, and on which devices; nothing is drawn from them.
    - `mask`: a masked value is held on the straight line between the image and its inverted noise.
    - `sampler`: its steps and grid; n steps up and n steps down cost 2 n - 1 denoiser calls.
    - `on_step`: called on the way down; costs an evaluation a step more.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    return _edit(source, target, sde, image, keys, strength, mask, sampler, on_step, "ode_inversion", _Euler())


def fire_flow(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    sampler: Sampler | None = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """FireFlow (Deng et al. 2025): ODE inversion by a midpoint rule of second order at a first-order rule's cost.

    The paper's steps are uniform in the share of noise: `Sampler(steps, "time")` under `RectifiedFlow`.

    **Arguments:** as those of `ode_inversion`; n steps cost 2 n + 1 denoiser calls.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    return _edit(source, target, sde, image, keys, strength, mask, sampler, on_step, "fire_flow", _Midpoint())


def rf_inversion(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 1.0,
    mask: ArrayLike | None = None,
    sampler: Sampler | None = None,
    gamma: ArrayLike = 0.5,
    eta: ArrayLike = 0.9,
    controlled: ArrayLike = 0.25,
    on_step: OnStep | None = None,
) -> jax.Array:
    """RF-Inversion (Rout et al. 2025): ODE inversion, drawn to a noise on the way up and to the image on the way down.

    **Arguments:** as those of `ode_inversion`, and

    - `source`: the paper's is unconditional, `model.denoiser()`.
    - `keys`: (b,); result k depends on key k and image k alone.
    - `gamma`: in [0, 1], the pull of the noise of the key; 1 is SDEdit's noise, 0 ODE inversion.
    - `eta`: in [0, 1], the pull of the image; 1 all the way returns it.
    - `controlled`: in [0, 1], the share of the steps down that the image pulls; the paper's are the first quarter.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    for name, value in (("gamma", gamma), ("eta", eta), ("controlled", controlled)):
        check_share(name, value)
    control = _Control(gamma, eta, controlled)
    return _edit(
        source,
        target,
        sde,
        image,
        keys,
        strength,
        mask,
        sampler,
        on_step,
        "rf_inversion",
        _Euler(),
        control,
        noisy=True,
    )

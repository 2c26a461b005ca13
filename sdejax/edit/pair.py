"""One integrator for a pair of states on one path: z, the given image's, and y, the edit's.

    (11) z = alpha x0 + n is the given image x0 under noise n: the forward process conditioned on x0 and run backwards,
         eq. 9 with D_z = x0 known exactly, so its law is right on any grid. y takes the same step with the same unit
         noise and a denoiser D_y of its own. If the image must be kept, y = z.

Eq. 9 is linear, so what is integrated is the noise n (eq. 9 with D = 0) and the change d = y - z, in which a shared
noise cancels:

         d' = sigma'/sigma q^(lam^2/2) d + alpha' (1 - q^p) (D_y - x0)

The result is x0 plus the last change. An edit with D_y = x0 returns the image exactly, and so does a pixel that the
mask keeps: its change is 0, not small. An editor is a `Rule`, which gives D_y - x0; how the two noises are related is a
`Coupling` (eq. 14).
"""

import dataclasses
import math
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sdejax.edit.checks import array_of, check_count, check_image, check_mask, check_strength, for_each_key
from sdejax.edit.coupling import Coupling
from sdejax.noise.brownian import BrownianPaths
from sdejax.noise.keys import check_keys, stream
from sdejax.pytrees import STATIC, PerImage, pytree
from sdejax.runtime.jit import jit
from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.grids import GridName
from sdejax.solvers.problem import Components, Problem, Signals, State
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.solvers.solve import OnStep, solve, stepwise


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

    def __call__(self, t: jax.Array, state: State) -> Signals:
        *noises, change = state
        image = self.image.value
        pulls = []
        for noise in noises:
            # Behind the barrier, equal states are equal to the last bit in both denoisers, however XLA fuses them.
            z = self.sde.alpha(t) * image + noise
            z, y = jax.lax.optimization_barrier((z, z + change))
            pulls.append(self.rule(t, z, y, image))
        return (None,) * len(noises) + (sum(pulls[1:], pulls[0]) / len(pulls),)

    def noise(self, state: State, unit: State) -> Signals:
        return (*unit[: len(state) - 1], self.coupling.difference(state[-1], unit))

    def components(self, lam: float) -> Components:
        """What is static about the noises and the change."""
        copies = self.coupling.copies
        return Components(
            (self.coupling.stochasticity(lam),) * copies + (lam,),
            (False,) * copies + (True,),
            self.coupling.paths,
            self.coupling.multiplicative,
        )


_STATIC = ("sde", "sampler", "coupling")


@partial(jit, static_argnames=(*_STATIC, "repeats", "fresh"), images=("image", "keys", "mask"))
def _edit(rule, image, keys, mask, strength, repeats, fresh, sde, sampler, coupling):
    def once(image, k):
        problem, state = _begin(rule, image, keys, mask, strength, k * fresh, sde, sampler, coupling)
        *_, change = solve(problem, state, strength, sampler)
        return image + change, None

    if repeats == 1:
        return once(image, 0)[0]
    return jax.lax.scan(once, image, jnp.arange(repeats))[0]


def _begin(rule, image, keys, mask, strength, number, sde, sampler, coupling):
    """What is solved in a repeat, and the components at its start: the noises, and no change."""
    drive, own = _Pair(sde, coupling, rule, PerImage(image)), stream(keys, number)
    noises = tuple(
        sde.sigma(strength) * BrownianPaths(stream(own, i), image.shape[1:]).start() for i in range(coupling.copies)
    )
    problem = Problem(drive, drive.components(sampler.stochasticity), sde, own, mask * strength)
    return problem, (*noises, jnp.zeros_like(image))


@partial(jit, static_argnames=_STATIC, images=("image", "keys", "mask"))
def _begun(image, keys, mask, strength, number, sde, sampler, coupling):
    """Of `_begin`, what does not know the rule: the keys, each value's time of beginning, and the components."""
    problem, state = _begin(None, image, keys, mask, strength, number, sde, sampler, coupling)
    return problem.keys, problem.begin, state


@partial(jit, images=("image", "begin", "signal"))
def _shown(image, begin, signal, t):
    """The expected image of an edit at time t: values that have not begun are the image's."""
    return image + jnp.where((begin >= t) & (begin > 0.0), signal, 0.0)


def _watched(rule, image, keys, mask, strength, repeats, fresh, sde, sampler, coupling, on_step):
    """`_edit`, step by step."""
    for k in range(repeats):
        own, begin, state = _begun(image, keys, mask, strength, np.int32(k * fresh), sde, sampler, coupling)
        drive = _Pair(sde, coupling, rule, PerImage(image))
        problem = Problem(drive, drive.components(sampler.stochasticity), sde, own, begin)
        for step in stepwise(problem, state, strength, sampler):
            state = step.state
            expected = _shown(image, begin, step.signals[-1], np.float32(step.t))
            if on_step(k * sampler.steps + step.number, step.t, expected) is False:
                return expected
        image = image + state[-1]
    return image


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
    grid: GridName = "log_snr",
    on_step: OnStep | None = None,
) -> jax.Array:
    """Integrate the pair of eq. 11 with the rule of an editor.

    **Arguments:**

    - `rule`: a callable pytree (t, z, y, image) -> D_y - x0, the editor. Its leaves are traced, so another rule of the
      same structure compiles nothing.
    - `sde`: the process that the rule's denoisers belong to.
    - `image`: (b, *shape) or (1, *shape), in [-1, 1].
    - `keys`: (b,) keys, one result each; result k depends on key k and image k alone.
    - `strength`: the time in (0, 1] that the edit starts from. A traced number.
    - `mask`: in [0, 1], broadcast to the image, or per pixel without its last axis. 0 keeps the value bit for bit, 1
      edits it fully. A value between them multiplies the strength: the value is edited from mask * strength on. numpy's
      are best: checking a mask on a device waits for everything that the device was given before.
    - `repeats`: how often the result becomes the image again; another number compiles anew.
    - `fresh_noise`: whether each repeat has a path of its own, or all have that of the first.
    - `sampler`: steps, grid, solver, stochasticity; by default 20 steps. If it names no grid, `grid` is taken.
    - `coupling`: eq. 14, by name or as a `Coupling`.
    - `on_step`: called as on_step(step, t, D) after each step, for progress bars and previews: its number from 0 over
      all repeats, its time, and the expected image D (b, *shape). If it returns False, D is the result.

    **Returns:** (b, *shape). Jit-compiled; spread over devices as `keys` are. Differentiable in both modes by the
    leaves of the rule, the image, the mask and the strength, for which the unit noises of the steps are held fixed.

    **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    check_keys(keys)
    sampler, coupling = with_grid(sampler, grid), Coupling.parse(coupling)
    if coupling.stochasticity(sampler.stochasticity) == math.inf and isinstance(sampler.solver, Exponential):
        # A noise without memory leaves nothing to extrapolate from.
        sampler = dataclasses.replace(sampler, solver=dataclasses.replace(sampler.solver, order=1))
    image = check_image(image, keys)
    check_count("repeats", repeats)
    check_strength(strength)
    mask = check_mask(mask, image)
    given = (
        rule,
        for_each_key(image, image.shape[1:], keys),
        keys,
        for_each_key(mask, image.shape[1:], keys),
        array_of(strength, image.dtype),
        int(repeats),
        bool(fresh_noise),
        sde,
        sampler,
        coupling,
    )
    return _edit(*given) if on_step is None else _watched(*given, on_step)

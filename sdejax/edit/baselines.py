"""Editors that are settings of sync-SDE's integrator (eq. 14), by their names.

    FlowEdit                 (Kulikov et al. 2025)  the image's path is drawn afresh at every step, lam = 0
    CycleDiffusion           (Wu and De la Torre 2023)  the noises of an ancestral path to the image (its DPM-Encoder)
                             move the target's state: one path for both, lam = 1, first order
    Edit-friendly inversion  (Huberman-Spiegelglas et al. 2024)  the same with every noisy image drawn on its own

Inversions are in inversion.py; plain SDEdit with the target's prompt is `sdedit`.
"""

import dataclasses

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.coupling import Resampled
from sdejax.edit.sync_sde import sync_sde
from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import OnStep


def flow_edit(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    sampler: Sampler | None = None,
    redraws: int = 1,
    on_step: OnStep | None = None,
) -> jax.Array:
    """FlowEdit: an ordinary differential equation from image to edit, through noise that is drawn afresh at every step.

    **Arguments:** as those of `sync_sde`, and

    - `sampler`: its steps and grid; the method fixes the solver and the stochasticity. The paper's grid is "time" under
      `RectifiedFlow`, its n_max / steps is `strength`, and its n_min is 0.
    - `redraws`: the paper's n_avg, the draws that each step averages. Costs 2 redraws denoiser calls a step.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    how = {"strength": strength, "mask": mask, "on_step": on_step}
    fixed = steps_of(sampler, "flow_edit", Exponential(1), 0.0)
    return sync_sde(source, target, sde, image, keys, **how, sampler=fixed, coupling=Resampled(redraws))


def cycle_diffusion(
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
    """CycleDiffusion: the noises that make the image out of noise with the source's denoiser, used with the target's.

    **Arguments:** as those of `sync_sde`; of `sampler` the steps and the grid. 2 denoiser calls a step.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    how = {"strength": strength, "mask": mask, "on_step": on_step}
    fixed = steps_of(sampler, "cycle_diffusion", Exponential(1), 1.0)
    return sync_sde(source, target, sde, image, keys, **how, sampler=fixed)


def edit_friendly_inversion(
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
    """Edit-friendly DDPM inversion: CycleDiffusion's noises, between noisy images that are drawn independently.

    **Arguments:** as those of `sync_sde`; of `sampler` the steps and the grid. 2 denoiser calls a step. 1 - `strength`
    is the share that the paper skips.

    **Returns:** (b, *shape). **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    how = {"strength": strength, "mask": mask, "on_step": on_step}
    fixed = steps_of(sampler, "edit_friendly_inversion", Exponential(1), 1.0)
    return sync_sde(source, target, sde, image, keys, **how, sampler=fixed, coupling=Resampled())


def steps_of(sampler: Sampler | None, method: str, solver: Exponential, stochasticity: float) -> Sampler:
    """The steps and the grid of a sampler, with the solver and the stochasticity that a method fixes.

    **Raises:** `ValueError` if the sampler asks for another solver or stochasticity, neither the method's nor the
    default.
    """
    sampler, default = sampler or Sampler(), Sampler()
    for name, fixed in (("solver", solver), ("stochasticity", stochasticity)):
        asked = getattr(sampler, name)
        if asked not in (fixed, getattr(default, name)):
            raise ValueError(f"sampler {name}={asked!r}: {method} fixes it; give steps and grid only")
    return dataclasses.replace(sampler, solver=solver, stochasticity=stochasticity)

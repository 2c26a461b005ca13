"""Editors that are settings of sync-SDE's integrator (eq. 14), by their names.

    FlowEdit                 (Kulikov et al. 2025)  the image's path is drawn afresh at every step, lam = 0
    CycleDiffusion           (Wu and De la Torre 2023)  the noises of an ancestral path to the image (its DPM-Encoder)
                             move the target's state: one path for both, lam = 1, first order
    Edit-friendly inversion  (Huberman-Spiegelglas et al. 2024)  the same with every noisy image drawn on its own

Inversions are in inversion.py; plain SDEdit with the target's prompt is `sdedit`.
"""

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.pair import Coupling
from sdejax.edit.sync_sde import sync_sde
from sdejax.sde.base import SDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.grids import GridChoice
from sdejax.solvers.sampler import Sampler


def flow_edit(
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
    redraws: int = 1,
) -> jax.Array:
    """FlowEdit: an ordinary differential equation from image to edit, through noise that is drawn afresh at every step.

    **Arguments:** as those of `sync_sde`; `redraws` is the paper's n_avg, the draws that each step averages. Costs
    2 redraws denoiser calls a step. The paper's steps are `grid="time"` under `RectifiedFlow`, its n_max / steps is
    `strength`, and its n_min is 0.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    sampler, coupling = Sampler(steps, grid, Exponential(1), 0.0), Coupling("resampled", redraws=redraws)
    return sync_sde(source, target, sde, image, keys, strength=strength, mask=mask, sampler=sampler, coupling=coupling)


def cycle_diffusion(
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
    """CycleDiffusion: the noises that make the image out of noise with the source's denoiser, used with the target's.

    **Arguments:** as those of `sync_sde`; 2 denoiser calls a step.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    sampler = Sampler(steps, grid, Exponential(1))
    return sync_sde(source, target, sde, image, keys, strength=strength, mask=mask, sampler=sampler)


def edit_friendly_inversion(
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
    """Edit-friendly DDPM inversion: CycleDiffusion's noises, between noisy images that are drawn independently.

    **Arguments:** as those of `sync_sde`; 2 denoiser calls a step. 1 - `strength` is the share that the paper skips.

    **Returns:** (b, *shape). **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    sampler = Sampler(steps, grid, Exponential(1))
    return sync_sde(
        source, target, sde, image, keys, strength=strength, mask=mask, sampler=sampler, coupling="resampled"
    )

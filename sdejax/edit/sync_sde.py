"""sync-SDE (Zhang and Scott 2026): source and target reverse SDEs on one Brownian path.

(13) D_y = x0 + D_target(t, y) - D_source(t, z). The noise cancels in y - z, so the edit changes what the prompts
     differ in and keeps the rest; with the same source and target the image comes back exactly.
"""

import dataclasses

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.coupling import Coupling
from sdejax.edit.pair import edit
from sdejax.pytrees import pytree
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import OnStep


@pytree
@dataclasses.dataclass(frozen=True)
class _SyncSDE:
    source: Denoiser
    target: Denoiser

    def __call__(self, t: jax.Array, z: jax.Array, y: jax.Array, image: jax.Array) -> jax.Array:
        del image
        return self.target(t, y) - self.source(t, z)


def sync_sde(
    source: Denoiser,
    target: Denoiser,
    sde: SDE,
    image: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.8,
    mask: ArrayLike | None = None,
    sampler: Sampler | None = None,
    coupling: str | Coupling = "synchronous",
    on_step: OnStep | None = None,
) -> jax.Array:
    """Edit an image by what two prompts differ in (eq. 13).

    **Arguments:**

    - `source`, `target`: denoisers given a text of the image as it is and as it should be, such as
      `model.denoiser("red apple")` and `model.denoiser("green apple")`.
    - `sde`: the process that they belong to.
    - `image`: (b, *shape) or (1, *shape), in [-1, 1].
    - `keys`: (b,) keys, one result each; result k depends on key k and image k alone.
    - `strength`: the time in (0, 1] that the edit starts from; more changes more. A traced number.
    - `mask`: as in `sdedit`.
    - `sampler`: steps, grid, solver, stochasticity; by default 20 steps of the second-order exponential solver on the
      "log_snr" grid. Two denoiser calls for each step and path. Stochasticity 0 is the ODE limit.
    - `coupling`: "synchronous" is sync-SDE, and with `Exponential(1)` also CycleDiffusion's DPM-Encoder;
      "synchronous(N)" averages over N paths. "resampled" is edit-friendly DDPM inversion, and with stochasticity 0
      FlowEdit; "resampled(N)" has N draws for each step. "independent", "correlated(RHO)" and "reflection" are
      ablations (eq. 14).
    - `on_step`: as in `edit`.

    **Returns:** (b, *shape). Jit-compiled; spread over devices as `keys` are. Differentiable, as `edit` is.

    **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    how = {"strength": strength, "mask": mask, "coupling": coupling, "on_step": on_step}
    return edit(_SyncSDE(source, target), sde, image, keys, **how, sampler=sampler, grid="log_snr")

"""SDEdit (Meng et al. 2022): noise on a guide, then the reverse SDE.

    (12) D_y = D(t, y), y starts at z. K repeats feed the result back as the image.

Algorithm 2 of the paper: pixels that the mask keeps are those of the noised image at every time.
"""

import dataclasses

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.pair import edit
from sdejax.pytrees import pytree
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler
from sdejax.solvers.solve import OnStep


@pytree
@dataclasses.dataclass(frozen=True)
class _SDEdit:
    denoiser: Denoiser

    def __call__(self, t: jax.Array, z: jax.Array, y: jax.Array, image: jax.Array) -> jax.Array:
        return self.denoiser(t, y) - image


def sdedit(
    denoiser: Denoiser,
    sde: SDE,
    guide: ArrayLike,
    keys: jax.Array,
    *,
    strength: ArrayLike = 0.5,
    mask: ArrayLike | None = None,
    repeats: int = 1,
    fresh_noise: bool = True,
    sampler: Sampler | None = None,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Turn a guide (a stroke painting, a photo with strokes, a composite) into an image of the model (eq. 12).

    **Arguments:**

    - `denoiser`: a callable pytree D(t, x), such as `model.denoiser()`; with a prompt it edits towards the prompt.
    - `sde`: the process that `denoiser` belongs to.
    - `guide`: (b, *shape) or (1, *shape), in [-1, 1].
    - `keys`: (b,) keys, one result each; result k depends on key k and guide k alone.
    - `strength`: the time t0 in (0, 1] that the edit starts from; more is more realistic, less more faithful. The
      paper uses 0.3 to 0.6. A traced number: another one compiles nothing, and the number of steps stays.
    - `mask`: in [0, 1], broadcast to the guide, or per pixel without its last axis. 0 keeps the value bit for bit, 1
      edits it fully. A value between them multiplies the strength: the value is edited from mask * strength on.
    - `repeats`: K of the paper; the result becomes the guide again. Another number compiles anew.
    - `fresh_noise`: whether each repeat has a path of its own, as in the paper. If all have the path of the first, what
      one repeat has left of the noise adds up in the next.
    - `sampler`: steps, grid, solver, stochasticity; by default 20 steps of the second-order exponential solver on the
      "edm" grid. One denoiser call for each step and repeat.
    - `on_step`: as in `edit`.

    **Returns:** (b, *shape). Jit-compiled; spread over devices as `keys` are. Differentiable, as `edit` is.

    **Raises:** `ValueError` if an argument is outside its range or of the wrong shape.
    """
    how = {"strength": strength, "mask": mask, "repeats": repeats, "fresh_noise": fresh_noise, "on_step": on_step}
    return edit(_SDEdit(denoiser), sde, guide, keys, **how, sampler=sampler, grid="edm")

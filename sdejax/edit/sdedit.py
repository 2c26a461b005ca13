"""SDEdit (Meng et al. 2022): noise on a guide, then the reverse SDE.

    (12) D_y = D(t, y), y starts at z. K repeats feed the result back as the image.

Algorithm 2 of the paper: where the mask keeps the image, y is the noised image at every time.
"""

import dataclasses

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.pair import edit
from sdejax.pytrees import pytree
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler


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
      edits it fully, and between it multiplies the strength: the value is edited from mask * strength on. Best numpy's:
      to check one on a device awaits all that the device was given before.
    - `repeats`: K of the paper; the result becomes the guide again.
    - `fresh_noise`: whether each repeat has a path of its own, as in the paper, or all have that of the first, under
      which what one repeat has left of the noise adds up in the next.
    - `sampler`: steps, grid, solver, stochasticity; one denoiser call per step and repeat.

    **Returns:** (b, *shape). Jit-compiled; spread over devices as `keys` are.

    **Raises:** `ValueError` for an argument outside its range or of the wrong shape.
    """
    rule = _SDEdit(denoiser)
    how = {"strength": strength, "mask": mask, "repeats": repeats, "fresh_noise": fresh_noise}
    return edit(rule, sde, guide, keys, **how, sampler=sampler)

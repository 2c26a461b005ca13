"""The methods that edit by two prompts, by name, with what each costs: the one list of text editors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from jax.typing import ArrayLike

from sdejax.denoiser.protocol import Denoiser
from sdejax.edit.baselines import cycle_diffusion, edit_friendly_inversion, flow_edit
from sdejax.edit.inversion import fire_flow, ode_inversion, rf_inversion
from sdejax.edit.sdedit import sdedit
from sdejax.edit.sync_sde import sync_sde
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.solvers.solve import OnStep


class TextEditor(Protocol):
    """What every method is called like; `sync_sde` documents the arguments."""

    def __call__(
        self,
        source: Denoiser,
        target: Denoiser,
        sde: SDE,
        image: ArrayLike,
        keys: jax.Array,
        *,
        strength: ArrayLike = ...,
        mask: ArrayLike | None = ...,
        sampler: Sampler | None = ...,
        on_step: OnStep | None = ...,
    ) -> jax.Array:
        """The edited images (b, *shape)."""
        ...


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to edit by text.

    - `edit`: the editor.
    - `calls`: n steps -> the number of denoiser calls of the source and of the target.
    - `drawn`: whether the result depends on the seed.
    - `prompted`: whether its source has a prompt; else it is unconditional.
    """

    edit: TextEditor
    calls: Callable[[int], tuple[int, int]]
    drawn: bool = True
    prompted: bool = True

    def evaluations(self, steps: int, guidance: float) -> int:
        """Network evaluations for one image: a guided denoiser costs two."""
        source, target = self.calls(steps)
        return source + target * (1 if guidance == 1.0 else 2)


def _sdedit(
    source: Denoiser, target: Denoiser, *given: Any, sampler: Sampler | None = None, **others: Any
) -> jax.Array:
    """SDEdit of the target's prompt, on the grid of the methods that it is compared with."""
    del source
    return sdedit(target, *given, sampler=with_grid(sampler, "log_snr"), **others)


METHODS: Mapping[str, Method] = {
    "sync_sde": Method(sync_sde, lambda n: (n, n)),
    "sdedit": Method(_sdedit, lambda n: (0, n)),
    "flow_edit": Method(flow_edit, lambda n: (n, n)),
    "cycle_diffusion": Method(cycle_diffusion, lambda n: (n, n)),
    "edit_friendly_inversion": Method(edit_friendly_inversion, lambda n: (n, n)),
    "ode_inversion": Method(ode_inversion, lambda n: (n - 1, n), drawn=False),
    "fire_flow": Method(fire_flow, lambda n: (n, n + 1), drawn=False),
    # Its source is unconditional.
    "rf_inversion": Method(rf_inversion, lambda n: (n - 1, n), prompted=False),
}

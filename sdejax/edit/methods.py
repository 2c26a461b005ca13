"""The methods that edit by two prompts, by name: how each is called and what it costs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from sdejax.edit.baselines import cycle_diffusion, edit_friendly_inversion, flow_edit
from sdejax.edit.inversion import fire_flow, ode_inversion, rf_inversion
from sdejax.edit.sdedit import sdedit
from sdejax.edit.sync_sde import sync_sde
from sdejax.solvers.grids import GridChoice
from sdejax.solvers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to edit by text. `calls` is (source's, target's) denoiser calls for n steps; `drawn` says it uses the seed.

    `edit` takes (source, target, sde, images, keys, strength=, mask=, steps=, grid=); `prompted` says whether its
    source has a prompt or is unconditional.
    """

    edit: Callable[..., jax.Array]
    calls: Callable[[int], tuple[int, int]]
    drawn: bool = True
    prompted: bool = True

    def evaluations(self, steps: int, guidance: float) -> int:
        """Network evaluations for one image: a guided denoiser costs two."""
        source, target = self.calls(steps)
        return source + target * (1 if guidance == 1.0 else 2)


def _sync_sde(*given: Any, steps: int, grid: GridChoice = "log_snr", **others: Any) -> jax.Array:
    return sync_sde(*given, sampler=Sampler(steps, grid), **others)


def _sdedit(
    source: Any, target: Any, *given: Any, steps: int, grid: GridChoice = "log_snr", **others: Any
) -> jax.Array:
    del source
    return sdedit(target, *given, sampler=Sampler(steps, grid), **others)


METHODS: Mapping[str, Method] = {
    "sync_sde": Method(_sync_sde, lambda n: (n, n)),
    "sdedit": Method(_sdedit, lambda n: (0, n)),
    "flow_edit": Method(flow_edit, lambda n: (n, n)),
    "cycle_diffusion": Method(cycle_diffusion, lambda n: (n, n)),
    "edit_friendly_inversion": Method(edit_friendly_inversion, lambda n: (n, n)),
    "ode_inversion": Method(ode_inversion, lambda n: (n - 1, n), drawn=False),
    "fire_flow": Method(fire_flow, lambda n: (n, n + 1), drawn=False),
    # Its source is unconditional.
    "rf_inversion": Method(rf_inversion, lambda n: (n - 1, n), prompted=False),
}

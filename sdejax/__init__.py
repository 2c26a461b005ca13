"""sdejax: score-based SDE models in JAX, and the image editors that run on them.

The names below are imported when they are first used, so that `import sdejax` is quick and touches no device.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from sdejax._version import __version__

if TYPE_CHECKING:
    from sdejax.brownian import BrownianPaths
    from sdejax.checkpoint import save
    from sdejax.compiling import compiler_options
    from sdejax.config import Config, load_config
    from sdejax.denoiser import (
        DatasetDenoiser,
        Denoiser,
        GaussianDenoiser,
        GuidedDenoiser,
        MixtureDenoiser,
        PerImage,
        score,
    )
    from sdejax.edit.baselines import cycle_diffusion, edit_friendly_inversion, flow_edit
    from sdejax.edit.coupled import Coupling
    from sdejax.edit.inversion import fire_flow, ode_inversion, rf_inversion
    from sdejax.edit.restore import BlockMeans, Luminance, restore
    from sdejax.edit.sdedit import sdedit
    from sdejax.edit.sync_sde import sync_sde
    from sdejax.generate import generate
    from sdejax.likelihood import Likelihood, bits_per_dimension, log_likelihood
    from sdejax.loading import load
    from sdejax.model import Model, NetworkDenoiser, Parametrisation, UnknownWordWarning
    from sdejax.nn.architecture import NCSNppConfig
    from sdejax.nn.text import Vocabulary
    from sdejax.parallel import image_mesh, spread
    from sdejax.sample import keys, sample
    from sdejax.sampler import Exponential, Langevin, Sampler
    from sdejax.sde import SDE, VESDE, VPSDE, DiscreteVPSDE, RectifiedFlow, SubVPSDE

_HOMES = {
    "brownian": ("BrownianPaths",),
    "checkpoint": ("save",),
    "compiling": ("compiler_options",),
    "config": ("Config", "load_config"),
    "denoiser": (
        "DatasetDenoiser",
        "Denoiser",
        "GaussianDenoiser",
        "GuidedDenoiser",
        "MixtureDenoiser",
        "PerImage",
        "score",
    ),
    "edit.baselines": ("cycle_diffusion", "edit_friendly_inversion", "flow_edit"),
    "edit.coupled": ("Coupling",),
    "edit.inversion": ("fire_flow", "ode_inversion", "rf_inversion"),
    "edit.restore": ("BlockMeans", "Luminance", "restore"),
    "edit.sdedit": ("sdedit",),
    "edit.sync_sde": ("sync_sde",),
    "generate": ("generate",),
    "likelihood": ("Likelihood", "bits_per_dimension", "log_likelihood"),
    "loading": ("load",),
    "model": ("Model", "NetworkDenoiser", "Parametrisation", "UnknownWordWarning"),
    "nn.architecture": ("NCSNppConfig",),
    "nn.text": ("Vocabulary",),
    "parallel": ("image_mesh", "spread"),
    "sample": ("keys", "sample"),
    "sampler": ("Exponential", "Langevin", "Sampler"),
    "sde": ("SDE", "DiscreteVPSDE", "RectifiedFlow", "SubVPSDE", "VESDE", "VPSDE"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "SDE",
    "VESDE",
    "VPSDE",
    "BlockMeans",
    "BrownianPaths",
    "Config",
    "Coupling",
    "DatasetDenoiser",
    "Denoiser",
    "DiscreteVPSDE",
    "Exponential",
    "GaussianDenoiser",
    "GuidedDenoiser",
    "Langevin",
    "Likelihood",
    "Luminance",
    "MixtureDenoiser",
    "Model",
    "NCSNppConfig",
    "NetworkDenoiser",
    "Parametrisation",
    "PerImage",
    "RectifiedFlow",
    "Sampler",
    "SubVPSDE",
    "UnknownWordWarning",
    "Vocabulary",
    "__version__",
    "bits_per_dimension",
    "compiler_options",
    "cycle_diffusion",
    "edit_friendly_inversion",
    "fire_flow",
    "flow_edit",
    "generate",
    "image_mesh",
    "keys",
    "load",
    "load_config",
    "log_likelihood",
    "ode_inversion",
    "restore",
    "rf_inversion",
    "sample",
    "save",
    "score",
    "sdedit",
    "spread",
    "sync_sde",
]


class _Package(types.ModuleType):
    """Keeps `sdejax.sample` the function: importing the file sample.py would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"sdejax.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'sdejax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Checkpoints of the PyTorch release of score_sde (Song et al. 2021).

`score_sde_network` finds the network from the order of its modules. Fourier features mean VE in continuous time.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.denoiser.prediction import PredictNoise, PredictScaledScore, PredictScore
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.parametrisation import (
    LevelLabel,
    LogLevelLabel,
    NoiseIndexLabel,
    Parametrisation,
    TimeLabel,
    UnitRange,
)
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.params import from_names, shapes, to_names
from sdejax.pretrained.files import digest, read_torch
from sdejax.pretrained.layout import with_our_axes
from sdejax.pretrained.score_sde_network import COMBINE, FOURIER, NOTHING, Module, State, modules_of, network_of, order
from sdejax.pretrained.weights_layout import LoadOptions
from sdejax.sde.base import SDE
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE

# Our names of a module's layers, and the release's.
_LAYERS = {
    "": "",
    "norm0": "GroupNorm_0.",
    "conv0": "Conv_0.",
    "embed": "Dense_0.",
    "norm1": "GroupNorm_1.",
    "conv1": "Conv_1.",
    "norm": "GroupNorm_0.",
    "query": "NIN_0.",
    "key": "NIN_1.",
    "value": "NIN_2.",
    "out": "NIN_3.",
}


class ScoreSDELayout:
    """`.pth` files."""

    description = "a .pth file of score_sde's PyTorch release"

    def reads(self, path: Path) -> bool:
        """Whether the name ends in .pth."""
        return path.suffix == ".pth"

    def read(self, path: Path, options: LoadOptions) -> Model:
        """Read the file."""
        return read_score_sde(path, sde=options.sde, fir=options.fir, size=options.size)


def read_score_sde(
    path: str | Path, *, sde: SDE | None = None, fir: bool | None = None, size: int | None = None
) -> Model:
    """Read a `.pth` checkpoint of the release: the averaged weights of its network.

    **Arguments:**

    - `path`: the file.
    - `sde`: the process that the network was trained on, for images in [-1, 1]. None is VE with the file's own noise
      levels for a network with Fourier features, and else VP. A network with a positional embedding may also have
      `SubVPSDE`, a `DiscreteVPSDE`, or a `VESDE`, which means VE in discrete time. The levels of a `VESDE` are twice
      those for images in [0, 1].
    - `fir`: whether its blocks filter as they resample, if its layers do not show it. None is yes for networks with
      Fourier features or with progressive input or output.
    - `size`: the side of its images. None derives it from the level with attention.

    **Raises:** `ValueError` that names the path, if the file is not such a checkpoint or an argument does not fit it.
    """
    content = read_torch(path)
    try:
        ema = content.get("ema") if isinstance(content, dict) else None
        if not isinstance(ema, dict) or "shadow_params" not in ema or not isinstance(content.get("model"), dict):
            raise ValueError("is not a checkpoint of score_sde, which has the entries model and ema")
        weights = averaged(content["model"], ema["shadow_params"])
        model = from_state(weights, sde=sde, fir=fir, size=size)
    except ValueError as error:
        raise ValueError(f"path={str(path)!r}: {error}") from None
    return dataclasses.replace(model, source=digest(Path(path)))


def averaged(state: State, shadow: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The state dict with the moving averages `shadow` in place of its trained parameters, in their order."""
    # The noise levels are a buffer, and the Fourier frequencies are not trained: neither has an average.
    names = [name for name in state if re.search(r"all_modules\.\d+\.(?!W$)", name)]
    if len(names) != len(shadow):
        raise ValueError(f"ema has {len(shadow)} parameters, but the model has {len(names)} that are trained")
    for name, value in zip(names, shadow, strict=True):
        if value.shape != state[name].shape:
            raise ValueError(f"ema has shape {value.shape} in the place of {name!r}, which has {state[name].shape}")
    return {**state, **dict(zip(names, shadow, strict=True))}


def from_state(state: State, *, sde: SDE | None = None, fir: bool | None = None, size: int | None = None) -> Model:
    """The model of a state dict; arguments as in `read_score_sde`.

    **Raises:** `ValueError` if no network of the release has these modules, or an argument does not fit them.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    modules = modules_of(state)
    config = network_of(modules, fir, size)
    sde, parametrisation = _process(config, sde, state.get("sigmas"))
    config = dataclasses.replace(config, scale_by_sigma=parametrisation.prediction == PredictScore())
    abstract = FlaxNetwork.abstract(config).params
    params = from_names(abstract, _arrays(config, modules, shapes(abstract)))
    return Model(FlaxNetwork(config, params), sde, parametrisation)


def to_state(model: Model) -> dict[str, np.ndarray]:
    """The model's parameters with the release's names and axes: the inverse of `from_state`."""
    arrays = to_names(model.params)
    return {
        f"all_modules.{place}.{key}": _to_theirs(np.asarray(arrays[name]), key)
        for place, (prefix, kind) in enumerate(order(model.config))
        for name, key in _keys(model.config, prefix, kind, arrays)
    }


def _process(config: NCSNppConfig, sde: SDE | None, sigmas: np.ndarray | None) -> tuple[SDE, Parametrisation]:
    """The process that the network was trained on, and what its input and output mean there.

    For VE the release's images are in [0, 1], so its noise levels are half of ours. Its networks centre the images.
    """
    levels = [] if sigmas is None else [2.0 * float(sigma) for sigma in sigmas]
    if not levels and (isinstance(sde, VESDE) or (sde is None and config.embedding == "fourier")):
        raise ValueError(f"sde={sde!r}: the checkpoint lacks its noise levels, the buffer sigmas")
    if config.embedding == "fourier":
        # Six digits, because the levels in the file are rounded.
        sde = sde or VESDE(*(float(f"{level:.6g}") for level in (min(levels), max(levels))))
        if not isinstance(sde, VESDE):
            raise ValueError(f"sde={sde!r}: must be a VESDE for a network with Fourier features")
        return sde, Parametrisation(PredictScore(), LogLevelLabel(), UnitRange())
    sde = sde or VPSDE(0.1, 20.0)
    if isinstance(sde, VPSDE | SubVPSDE):
        return sde, Parametrisation(PredictNoise(), TimeLabel())
    if isinstance(sde, DiscreteVPSDE):
        return sde, Parametrisation(PredictNoise(), LevelLabel(len(sde.betas)))
    if isinstance(sde, VESDE):
        return sde, Parametrisation(PredictScaledScore(), NoiseIndexLabel(len(levels)), UnitRange())
    raise ValueError(f"sde={sde!r}: must be a VPSDE, SubVPSDE, DiscreteVPSDE or VESDE")


def _arrays(
    config: NCSNppConfig, modules: list[Module], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The parameters by our names. Each must have the shape in `wanted`."""
    arrays = {}
    entries = [(prefix, kind) for prefix, kind in order(config) if kind != NOTHING]
    for (prefix, kind), module in zip(entries, modules, strict=True):
        keys = {key: name for name, key in _keys(config, prefix, kind, wanted)}
        # Nothing reads the Fourier features of a network without a label.
        for key in [] if kind == FOURIER and not config.conditional else sorted({*keys, *module.arrays}):
            place = f"all_modules.{module.number}.{key}"
            if key not in module.arrays:
                raise ValueError(f"{place} is missing in {kind.removeprefix('a ').removeprefix('an ')}")
            if key not in keys:
                raise ValueError(f"{place} is too many in {kind.removeprefix('a ').removeprefix('an ')}")
            value = _to_ours(module.arrays[key], key)
            if value.shape != wanted[keys[key]]:
                theirs = _to_theirs(np.empty(wanted[keys[key]]), key).shape
                raise ValueError(f"{place} has shape {module.arrays[key].shape}, but the network has {theirs} there")
            arrays[keys[key]] = value
    return arrays


def _keys(config: NCSNppConfig, prefix: str, kind: str, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each of our parameters in one module: its name, and the release's name for it inside the module."""
    layers = {
        **_LAYERS,
        "conv": "Conv2d_0." if config.fir else "Conv_0.",
        "skip": "Conv_2." if config.resblock == "biggan" else "NIN_0.",
    }
    if kind == COMBINE:
        layers[""] = "Conv_0."
    for name in names if prefix else ():
        if name.startswith(prefix + "."):
            layer, _, leaf = name.removeprefix(prefix + ".").rpartition(".")
            if leaf == "frequencies":
                yield name, "W"
            elif layers[layer].startswith("NIN"):
                yield name, layers[layer] + ("b" if leaf == "bias" else "W")
            else:
                yield name, layers[layer] + ("bias" if leaf == "bias" else "weight")


def _to_ours(value: np.ndarray, key: str) -> np.ndarray:
    """A parameter with our axes. The release's matrices W already have them."""
    return value if key.endswith("W") else with_our_axes(value)


def _to_theirs(value: np.ndarray, key: str) -> np.ndarray:
    """The inverse of `_to_ours`."""
    if key.endswith("W") or value.ndim == 1:
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None, None] if key.startswith("Conv") else value.T

"""Checkpoints of DDPM (Ho et al. 2020) in the port to PyTorch that SDEdit's demonstrations load.

In these checkpoints, levels are numbered from the finest, both on the way down and on the way up. All norms have 32
groups. In a level with attention, every block is followed by it, also on the way up. The network predicts the noise at
1000 levels.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.denoiser.prediction import PredictNoise
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.parametrisation import LevelLabel, Parametrisation
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.params import from_names, shapes
from sdejax.pretrained.files import digest, read_torch
from sdejax.pretrained.layout import image_side, with_our_axes
from sdejax.pretrained.weights_layout import LoadOptions
from sdejax.sde.variance_preserving import DiscreteVPSDE

State = Mapping[str, np.ndarray]

# Regular expressions from our names to theirs, applied in this order.
_NAMES = (
    (r"embed(\d)", r"temb.dense.\1"),
    (r"middle\.block0", "mid.block_1"),
    (r"middle\.block1", "mid.block_2"),
    (r"middle\.attention", "mid.attn_1"),
    (r"\.block(\d+)", r".block.\1"),
    (r"\.attention(\d+)", r".attn.\1"),
    (r"norm1", "norm2"),
    (r"norm0", "norm1"),
    (r"conv1", "conv2"),
    (r"conv0", "conv1"),
    (r"\.embed\.", ".temb_proj."),
    (r"\.skip\.", ".nin_shortcut."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"\.out\.", ".proj_out."),
    (r"\.(kernel|scale)$", ".weight"),
)


class DDPMLayout:
    """`.ckpt` files."""

    description = "a .ckpt file of DDPM's port to PyTorch"

    def reads(self, path: Path) -> bool:
        """Whether the name ends in .ckpt."""
        return path.suffix == ".ckpt"

    def read(self, path: Path, options: LoadOptions) -> Model:
        """Read the file."""
        return read_ddpm(path, size=options.size)


def read_ddpm(path: str | Path, *, size: int | None = None) -> Model:
    """Read a `.ckpt` file.

    Training writes a list: the network first, its moving average last. Then the average is taken, if it is there.

    **Arguments:**

    - `path`: the file.
    - `size`: the side of its images. None derives it from the level with attention.

    **Raises:** `ValueError` that names the path, if the file is not such a checkpoint.
    """
    content = read_torch(path)
    try:
        model = from_state(_state_dict(content), size=size)
    except ValueError as error:
        raise ValueError(f"path={str(path)!r}: {error}") from None
    return dataclasses.replace(model, source=digest(Path(path)))


def from_state(state: State, *, size: int | None = None) -> Model:
    """The model of a state dict; `size` as in `read_ddpm`.

    **Raises:** `ValueError` if the network has another layout, or `size` does not fit it.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    config = _config(state, size)
    abstract = FlaxNetwork.abstract(config).params
    wanted = shapes(abstract)
    theirs = {name: _their_name(name, config) for name in wanted}
    for name in sorted({*theirs.values(), *state}):
        if name not in state:
            raise ValueError(f"the parameter {name!r} of DDPM is missing")
        if name not in theirs.values():
            raise ValueError(f"has the parameter {name!r}, which DDPM does not have")
    arrays = {name: with_our_axes(state[key]) for name, key in theirs.items()}
    for name, value in arrays.items():
        if value.shape != wanted[name]:
            key = theirs[name]
            raise ValueError(f"the parameter {key!r} has shape {state[key].shape}, which DDPM does not have there")
    sde = DiscreteVPSDE(tuple(np.linspace(1e-4, 0.02, 1000).tolist()))
    network = FlaxNetwork(config, from_names(abstract, arrays))
    return Model(network, sde, Parametrisation(PredictNoise(), LevelLabel(1000)))


def _state_dict(content: Any) -> State:
    """The state dict in a file: the whole content, an entry of it, or the last or else the first item of a list."""
    if isinstance(content, list | tuple):
        candidates = [content[-1], content[0]] if content else []
    elif isinstance(content, dict):
        candidates = [content, content.get("state_dict"), content.get("model")]
    else:
        candidates = []
    for candidate in candidates:
        if isinstance(candidate, dict) and any(
            str(name).removeprefix("module.") == "conv_in.weight" for name in candidate
        ):
            return candidate
    raise ValueError("is not a checkpoint of DDPM; it has no parameter conv_in.weight")


def _config(state: State, size: int | None) -> NCSNppConfig:
    """The configuration of the network with these parameters."""
    levels = _count(state, r"down\.(\d+)\.block\.0\.conv1\.weight")
    blocks = _count(state, r"down\.0\.block\.(\d+)\.conv1\.weight")
    if "conv_in.weight" not in state or state["conv_in.weight"].ndim != 4 or not levels or not blocks:
        raise ValueError("lacks the parameters conv_in.weight and down.0.block.0.conv1.weight of DDPM")
    channels, image = state["conv_in.weight"].shape[:2]
    if channels % 32:
        raise ValueError(f"conv_in.weight has {channels} channels; must be a multiple of 32, the groups of a norm")
    attending = [i for i in range(levels) if f"down.{i}.attn.0.norm.weight" in state]
    size = image_side(size, attending, levels)
    return NCSNppConfig(
        shape=(size, size, image),
        channels=channels,
        multipliers=tuple(len(state[f"down.{i}.block.0.conv1.weight"]) // channels for i in range(levels)),
        blocks=blocks,
        attention=tuple(size // 2**i for i in attending),
        attention_up="every",
        resblock="ddpm",
        resample_with_conv=levels == 1 or "down.0.downsample.conv.weight" in state,
        rescale=False,
        groups=32,
        dropout=0.1 if size == 32 else 0.0,
    )


def _count(state: State, pattern: str) -> int:
    """How many consecutive numbers from 0 on the pattern's group matches among the names."""
    found = set(_numbers(state, pattern))
    return next(i for i in range(len(found) + 1) if i not in found)


def _numbers(state: State, pattern: str) -> Iterator[int]:
    for name in state:
        if match := re.fullmatch(pattern, name):
            yield int(match[1])


def _their_name(name: str, config: NCSNppConfig) -> str:
    for i, (level, _, _) in enumerate(config.levels()):
        name = name.replace(f".{level}.", f".{i}.")
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name

"""Checkpoints of DDPM (Ho et al. 2020) as ported to PyTorch, which SDEdit's demonstrations load -> Model.

Levels are numbered from the finest on the way down and up alike. All norms have 32 groups; attention is behind every
block of its level, also on the way up. The network predicts the noise at 1000 levels.
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
from sdejax.sde.variance_preserving import DiscreteVPSDE

State = Mapping[str, np.ndarray]

# Ours -> theirs, in the order in which the patterns are tried.
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


def read_ddpm(path: str | Path, *, size: int | None = None) -> Model:
    """Read a `.ckpt` file; `size` is the side of its images, and None finds it from the level with attention.

    A file of training that lists the network first and its running average last gives the average.

    **Raises:** `ValueError`, naming the path, where the file is not such a checkpoint.
    """
    content = read_torch(path)
    try:
        model = from_state(_network(content), size=size)
    except ValueError as error:
        raise ValueError(f"path={str(path)!r}: {error}") from None
    return dataclasses.replace(model, source=digest(Path(path)))


def from_state(state: State, *, size: int | None = None) -> Model:
    """The model of a network's state dict; `size` as for `read_ddpm`.

    **Raises:** `ValueError` where the network is not of this layout, or `size` does not fit it.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    config = _config(state, size)
    abstract = FlaxNetwork.abstract(config).params
    wanted = shapes(abstract)
    theirs = {name: _theirs(name, config) for name in wanted}
    for name in sorted({*theirs.values(), *state}):
        if name not in state:
            raise ValueError(f"the parameter {name!r} of DDPM is missing")
        if name not in theirs.values():
            raise ValueError(f"has the parameter {name!r}, which is not of DDPM")
    arrays = {name: with_our_axes(state[key]) for name, key in theirs.items()}
    for name, value in arrays.items():
        if value.shape != wanted[name]:
            key = theirs[name]
            raise ValueError(f"the parameter {key!r} has shape {state[key].shape}, which is not that of DDPM's block")
    sde = DiscreteVPSDE(tuple(np.linspace(1e-4, 0.02, 1000).tolist()))
    network = FlaxNetwork(config, from_names(abstract, arrays))
    return Model(network, sde, Parametrisation(PredictNoise(), LevelLabel(1000)))


def _network(content: Any) -> State:
    """The state dict in a file: the file itself, an entry of it, or the first of a list, the last where that is one."""
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
    raise ValueError("is not a checkpoint of DDPM, whose parameters begin with conv_in")


def _config(state: State, size: int | None) -> NCSNppConfig:
    """The network that has these parameters, if any has."""
    levels = _count(state, r"down\.(\d+)\.block\.0\.conv1\.weight")
    blocks = _count(state, r"down\.0\.block\.(\d+)\.conv1\.weight")
    if "conv_in.weight" not in state or state["conv_in.weight"].ndim != 4 or not levels or not blocks:
        raise ValueError("lacks the parameters conv_in.weight and down.0.block.0.conv1.weight of DDPM")
    channels, image = state["conv_in.weight"].shape[:2]
    if channels % 32:
        raise ValueError(
            f"conv_in.weight has {channels} channels, which must be a multiple of 32, the groups of a norm"
        )
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
    """How many numbers, from 0 on, the pattern finds among the names."""
    found = set(_numbers(state, pattern))
    return next(i for i in range(len(found) + 1) if i not in found)


def _numbers(state: State, pattern: str) -> Iterator[int]:
    for name in state:
        if match := re.fullmatch(pattern, name):
            yield int(match[1])


def _theirs(name: str, config: NCSNppConfig) -> str:
    for i, (level, _, _) in enumerate(config.levels()):
        name = name.replace(f".{level}.", f".{i}.")
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name

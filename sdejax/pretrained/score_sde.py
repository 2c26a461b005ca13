"""Checkpoints of the PyTorch release of score_sde (Song et al. 2021) -> Model.

The release keeps a network's layers in one list, `all_modules`, in the order in which it runs them, so a checkpoint
says neither what a layer is for nor how the network was configured. Both are found from the layers' kinds: of the few
networks with as many residual blocks, the one whose layers come in the same order and have the same shapes.

What shapes cannot say is taken as the release has it: attention is at 16 pixels; DDPM's class adds its skips as they
are and has 32 groups in every norm, all others divide by sqrt(2) and have min(channels // 4, 32); Fourier features mean
VE in continuous time.
"""

import dataclasses
import itertools
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
from sdejax.pretrained.layout import image_side, with_our_axes
from sdejax.sde.base import SDE
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, DiscreteVPSDE, SubVPSDE

State = Mapping[str, np.ndarray]

# The kinds of module, in words fit for a message. NOTHING has a place in the list and no parameters.
FOURIER, LINEAR, CONV, NORM = "the Fourier features", "a linear layer", "a convolution", "a group norm"
RESIDUAL, ATTENTION = "a residual block", "an attention block"
COMBINE, RESAMPLE, NOTHING = "a 1 x 1 convolution", "a resampling convolution", "nothing"

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


@dataclasses.dataclass(frozen=True)
class _Module:
    """One entry of `all_modules` that has parameters."""

    number: int
    kind: str
    arrays: dict[str, np.ndarray]


def read_score_sde(
    path: str | Path, *, sde: SDE | None = None, fir: bool | None = None, size: int | None = None
) -> Model:
    """Read a `.pth` checkpoint of the release: the averaged weights of its network.

    **Arguments:**

    - `sde`: the process it was trained on, for images in [-1, 1]. None is VE with the checkpoint's own noise levels for
      a network with Fourier features, and else VP. A network with a positional embedding takes `SubVPSDE`, a VP chain
      of levels, or a `VESDE`, for VE in discrete time; VE's levels are twice those for images in [0, 1].
    - `fir`: whether its blocks filter as they resample, where its layers do not show it. None is yes for networks with
      Fourier features or progressive input or output.
    - `size`: the side of its images; None finds it from the level with attention.

    **Raises:** `ValueError`, naming the path, where the file is not such a checkpoint or an argument does not fit it.
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
    """The state with its trained parameters, in their order, replaced by their running averages `shadow`."""
    # The noise levels are a buffer, and the Fourier frequencies are not trained: neither has an average.
    names = [name for name in state if re.search(r"all_modules\.\d+\.(?!W$)", name)]
    if len(names) != len(shadow):
        raise ValueError(f"ema has {len(shadow)} parameters, where the model has {len(names)} that are trained")
    for name, value in zip(names, shadow, strict=True):
        if value.shape != state[name].shape:
            raise ValueError(f"ema has shape {value.shape} in the place of {name!r}, which has {state[name].shape}")
    return {**state, **dict(zip(names, shadow, strict=True))}


def from_state(state: State, *, sde: SDE | None = None, fir: bool | None = None, size: int | None = None) -> Model:
    """The model of a network's state dict; arguments as for `read_score_sde`.

    **Raises:** `ValueError` where no network of the release has these modules, or an argument does not fit them.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    modules = _modules(state)
    config = _settled(_matching(modules), modules, fir, size)
    sde, parametrisation = _process(config, sde, state.get("sigmas"))
    config = dataclasses.replace(config, scale_by_sigma=parametrisation.prediction == PredictScore())
    abstract = FlaxNetwork.abstract(config).params
    params = from_names(abstract, _arrays(config, modules, shapes(abstract)))
    return Model(FlaxNetwork(config, params), sde, parametrisation)


def to_state(model: Model) -> dict[str, np.ndarray]:
    """The model's parameters as the release names and lays them out; the inverse of `from_state`."""
    arrays = to_names(model.params)
    return {
        f"all_modules.{place}.{key}": _to_theirs(np.asarray(arrays[name]), key)
        for place, (prefix, kind) in enumerate(order(model.config))
        for name, key in _keys(model.config, prefix, kind, arrays)
    }


def order(config: NCSNppConfig) -> list[tuple[str, str]]:
    """The release's `all_modules` for a network: what we call each module, and its kind."""
    return list(_order(config))


def _order(config: NCSNppConfig) -> Iterator[tuple[str, str]]:
    levels = config.levels()
    resample = RESIDUAL if config.resblock == "biggan" else RESAMPLE if config.resample_with_conv else NOTHING
    if config.embedding == "fourier":
        yield "label", FOURIER
    if config.conditional:
        yield from (("embed0", LINEAR), ("embed1", LINEAR))
    yield "conv_in", CONV
    for i, (name, _, attends) in enumerate(levels):
        for j in range(config.blocks):
            yield f"down.{name}.block{j}", RESIDUAL
            if attends:
                yield f"down.{name}.attention{j}", ATTENTION
        if i == len(levels) - 1:
            break
        yield f"down.{name}.downsample", resample
        if config.progressive_input == "input_skip":
            yield "", NOTHING  # the image's own downsampling
            yield f"down.{name}.input", COMBINE
        elif config.progressive_input == "residual":
            yield f"down.{name}.input", RESAMPLE
    yield from (("middle.block0", RESIDUAL), ("middle.attention", ATTENTION), ("middle.block1", RESIDUAL))
    for i, (name, _, attends) in reversed(list(enumerate(levels))):
        for j in range(config.blocks + 1):
            yield f"up.{name}.block{j}", RESIDUAL
        if attends:
            yield f"up.{name}.attention{config.blocks}", ATTENTION
        coarsest = i == len(levels) - 1
        if config.progressive == "output_skip" and not coarsest:
            yield "", NOTHING  # the image's own upsampling
        if config.progressive == "output_skip" or (config.progressive == "residual" and coarsest):
            yield from ((f"up.{name}.norm_out", NORM), (f"up.{name}.conv_out", CONV))
        elif config.progressive == "residual":
            yield f"up.{name}.output", RESAMPLE
        if i > 0:
            yield f"up.{name}.upsample", resample
    if config.progressive != "output_skip":
        yield from (("norm_out", NORM), ("conv_out", CONV))


def _keys(config: NCSNppConfig, prefix: str, kind: str, names: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """For each of our parameters in one module: its name, and what the release calls it there."""
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


def _modules(state: State) -> list[_Module]:
    """The modules that have parameters, in order."""
    arrays: dict[int, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
            arrays.setdefault(int(match[1]), {})[match[2]] = value
    if not arrays:
        raise ValueError("has no parameters all_modules.N of a network of score_sde")
    modules = [_Module(number, _kind(number, arrays[number]), arrays[number]) for number in sorted(arrays)]
    if not any(module.kind == LINEAR for module in modules):
        # An unconditional network has the layers that would read the label, and never runs them.
        modules = [
            dataclasses.replace(m, arrays={k: v for k, v in m.arrays.items() if not k.startswith("Dense_0.")})
            for m in modules
        ]
    return modules


def _kind(number: int, arrays: State) -> str:
    if "GroupNorm_1.weight" in arrays and "Conv_1.weight" in arrays:
        return RESIDUAL
    if "NIN_3.W" in arrays:
        return ATTENTION
    for key in ("Conv2d_0.weight", "Conv_0.weight"):
        if key in arrays:
            return COMBINE if arrays[key].shape[2:] == (1, 1) else RESAMPLE
    if "W" in arrays:
        return FOURIER
    kind = {1: NORM, 2: LINEAR, 4: CONV}.get(arrays["weight"].ndim) if "weight" in arrays else None
    if kind is None:
        raise ValueError(f"all_modules.{number} has {', '.join(arrays)}, which no module of score_sde has")
    return kind


def _matching(modules: list[_Module]) -> NCSNppConfig:
    """The network with modules of these kinds in this order; its images are as small as its levels allow."""
    kinds = [module.kind for module in modules]
    agreed, nearest = -1, None
    for config in _candidates(modules):
        expected = [kind for _, kind in order(config) if kind != NOTHING]
        if expected == kinds:
            return config
        pairs = itertools.zip_longest(kinds, expected)
        count = next(i for i, (own, other) in enumerate(pairs) if own != other)
        if count > agreed:
            agreed, nearest = count, expected
    if nearest is None:
        blocks = kinds.count(RESIDUAL)
        raise ValueError(f"has {blocks} residual blocks and {kinds.count(CONV)} convolutions, as no network has")
    wanted = nearest[agreed] if agreed < len(nearest) else NOTHING
    found, place = (kinds[agreed], modules[agreed].number) if agreed < len(kinds) else (NOTHING, len(modules))
    raise ValueError(f"all_modules.{place} is {found}, where the nearest network of score_sde has {wanted}")


def _candidates(modules: list[_Module]) -> Iterator[NCSNppConfig]:
    """The networks with as many residual blocks, in the release's family."""
    places = [place for place, module in enumerate(modules) if module.kind == RESIDUAL]
    first = next((module.arrays["weight"] for module in modules if module.kind == CONV), None)
    if first is None:
        return
    channels, image = first.shape[:2]
    ddpm = any("NIN_0.W" in modules[place].arrays for place in places)
    combine = next((place for place, module in enumerate(modules) if module.kind == COMBINE), None)
    cat = combine is not None and combine + 1 < len(modules) and _is_cat(modules[combine], modules[combine + 1])
    for levels in range(1, len(places)):
        # Two in the middle, `blocks` down and one more up at each level, and between two levels those that resample.
        blocks, rest = divmod(len(places) - 2 - levels - (0 if ddpm else 2 * (levels - 1)), 2 * levels)
        if blocks < 1 or rest:
            continue
        firsts = places[:: blocks + (0 if ddpm else 1)][:levels]
        outputs = [len(modules[place].arrays["Conv_1.weight"]) for place in firsts]
        sides = [2 ** (levels - 1 - i) for i in range(levels)]
        attention = tuple(
            side for side, place in zip(sides, firsts, strict=True) if modules[place + 1].kind == ATTENTION
        )
        for progressive, progressive_input, with_conv in itertools.product(
            ("none", "output_skip", "residual"), ("none", "input_skip", "residual"), (True, False) if ddpm else (True,)
        ):
            yield NCSNppConfig(
                shape=(sides[0], sides[0], image),
                channels=channels,
                multipliers=tuple(output // channels for output in outputs),
                blocks=blocks,
                attention=attention,
                resblock="ddpm" if ddpm else "biggan",
                resample_with_conv=with_conv,
                progressive=progressive,
                progressive_input=progressive_input,
                progressive_combine="cat" if cat else "sum",
                conditional=any(module.kind == LINEAR for module in modules),
                embedding="fourier" if any(module.kind == FOURIER for module in modules) else "positional",
            )


def _is_cat(combine: _Module, block: _Module) -> bool:
    """Whether a level's image is put beside its features rather than added: the next norm sees twice the channels."""
    norm = block.arrays.get("GroupNorm_0.weight")
    return norm is not None and len(norm) == 2 * len(combine.arrays["Conv_0.weight"])


def _settled(config: NCSNppConfig, modules: list[_Module], fir: bool | None, size: int | None) -> NCSNppConfig:
    """The config with what the order of the modules does not say."""
    levels = [i for i, (_, _, attends) in enumerate(config.levels()) if attends]
    size = image_side(size, levels, len(config.multipliers))
    shown = {"Conv2d_0.weight" in module.arrays for module in modules if module.kind == RESAMPLE}
    progressive = config.progressive != "none" or config.progressive_input != "none"
    if fir is not None and shown and fir not in shown:
        raise ValueError(f"fir={fir}: must be {not fir} for this network, whose resampling convolutions show it")
    if fir is None:
        fir = shown == {True} if shown else progressive or config.embedding == "fourier"
    # The class DDPM has none of NCSN++'s options, and its 32 groups must divide its channels.
    ddpm = config.resblock == "ddpm" and not (fir or progressive or config.embedding == "fourier")
    ddpm = ddpm and config.conditional and config.channels % 32 == 0
    return dataclasses.replace(
        config,
        shape=(size, size, config.shape[2]),
        attention=tuple(size // 2**i for i in levels),
        fir=fir,
        rescale=not ddpm,
        groups=32 if ddpm else None,
        dropout=0.1 if size == 32 else 0.0,
    )


def _process(config: NCSNppConfig, sde: SDE | None, sigmas: np.ndarray | None) -> tuple[SDE, Parametrisation]:
    """What the network was trained on, and what its input and output mean there.

    The release's images are in [0, 1] for VE, so its noise levels are half of ours; its networks centre them.
    """
    levels = [] if sigmas is None else [2.0 * float(sigma) for sigma in sigmas]
    if not levels and (isinstance(sde, VESDE) or (sde is None and config.embedding == "fourier")):
        raise ValueError(f"sde={sde!r}: the checkpoint lacks its noise levels, the buffer sigmas")
    if config.embedding == "fourier":
        # Six digits: the levels were rounded when they were computed from the published ones.
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
    config: NCSNppConfig, modules: list[_Module], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The parameters by our names, each of the shape that is wanted."""
    arrays = {}
    entries = [(prefix, kind) for prefix, kind in order(config) if kind != NOTHING]
    for (prefix, kind), module in zip(entries, modules, strict=True):
        keys = {key: name for name, key in _keys(config, prefix, kind, wanted)}
        # Without a label nothing reads the Fourier features.
        for key in [] if kind == FOURIER and not config.conditional else sorted({*keys, *module.arrays}):
            place = f"all_modules.{module.number}.{key}"
            if key not in module.arrays:
                raise ValueError(f"{place} is missing in {kind.removeprefix('a ').removeprefix('an ')}")
            if key not in keys:
                raise ValueError(f"{place} is too many in {kind.removeprefix('a ').removeprefix('an ')}")
            value = _to_ours(module.arrays[key], key)
            if value.shape != wanted[keys[key]]:
                theirs = _to_theirs(np.empty(wanted[keys[key]]), key).shape
                raise ValueError(f"{place} has shape {module.arrays[key].shape}, where the network has {theirs}")
            arrays[keys[key]] = value
    return arrays


def _to_ours(value: np.ndarray, key: str) -> np.ndarray:
    """A parameter with our axes; the release keeps what it calls W as we do."""
    return value if key.endswith("W") else with_our_axes(value)


def _to_theirs(value: np.ndarray, key: str) -> np.ndarray:
    """The inverse of `_to_ours`."""
    if key.endswith("W") or value.ndim == 1:
        return value
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T[:, :, None, None] if key.startswith("Conv") else value.T

"""Which network of score_sde's PyTorch release has the modules of a state dict.

The release keeps a network's modules in one list, `all_modules`, in the order in which it runs them. So a checkpoint
says neither what a module is for nor how the network was configured. Both follow from the modules' kinds: of the few
networks with as many residual blocks, it is the one whose modules have these kinds in this order.

Some options do not show in the modules. For them the release's own are taken: attention is at 16 pixels; the class DDPM
adds its skips as they are and has 32 groups in every norm, and all other networks divide by sqrt(2) and have
min(channels // 4, 32) groups.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.pretrained.layout import image_side

State = Mapping[str, np.ndarray]

# The kinds of modules, in words for messages. NOTHING has a place in the list, but no parameters.
FOURIER, LINEAR, CONV, NORM = "the Fourier features", "a linear layer", "a convolution", "a group norm"
RESIDUAL, ATTENTION = "a residual block", "an attention block"
COMBINE, RESAMPLE, NOTHING = "a 1 x 1 convolution", "a resampling convolution", "nothing"


@dataclasses.dataclass(frozen=True)
class Module:
    """A module with parameters: its number in `all_modules`, its kind, and its arrays by name."""

    number: int
    kind: str
    arrays: dict[str, np.ndarray]


def order(config: NCSNppConfig) -> Iterator[tuple[str, str]]:
    """The list `all_modules` of a network: our name for each module, and its kind."""
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
            yield "", NOTHING  # downsamples the image
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
            yield "", NOTHING  # upsamples the image
        if config.progressive == "output_skip" or (config.progressive == "residual" and coarsest):
            yield from ((f"up.{name}.norm_out", NORM), (f"up.{name}.conv_out", CONV))
        elif config.progressive == "residual":
            yield f"up.{name}.output", RESAMPLE
        if i > 0:
            yield f"up.{name}.upsample", resample
    if config.progressive != "output_skip":
        yield from (("norm_out", NORM), ("conv_out", CONV))


def modules_of(state: State) -> list[Module]:
    """The modules that have parameters, in order.

    **Raises:** `ValueError` if there are none, or if one is of no known kind.
    """
    arrays: dict[int, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"all_modules\.(\d+)\.(.+)", name):
            arrays.setdefault(int(match[1]), {})[match[2]] = value
    if not arrays:
        raise ValueError("has no parameters all_modules.N of a network of score_sde")
    modules = [Module(number, _kind(number, arrays[number]), arrays[number]) for number in sorted(arrays)]
    if not any(module.kind == LINEAR for module in modules):
        # A network without a label has the layers that would read it, but never runs them.
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
        raise ValueError(f"all_modules.{number} has {', '.join(arrays)}; no module of score_sde has these parameters")
    return kind


def network_of(modules: list[Module], fir: bool | None, size: int | None) -> NCSNppConfig:
    """The configuration of the network with these modules; `fir` and `size` as in `score_sde.read_score_sde`.

    **Raises:** `ValueError` if there is no such network, or if an argument does not fit it.
    """
    config = _matching(modules)
    levels = [i for i, (_, _, attends) in enumerate(config.levels()) if attends]
    size = image_side(size, levels, len(config.multipliers))
    shown = {"Conv2d_0.weight" in module.arrays for module in modules if module.kind == RESAMPLE}
    progressive = config.progressive != "none" or config.progressive_input != "none"
    if fir is not None and shown and fir not in shown:
        raise ValueError(f"fir={fir}: must be {not fir} for this network, as its resampling convolutions show")
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


def _matching(modules: list[Module]) -> NCSNppConfig:
    """The network with modules of these kinds in this order. Its images are as small as its levels allow."""
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
        blocks, convolutions = kinds.count(RESIDUAL), kinds.count(CONV)
        raise ValueError(f"has {blocks} residual blocks and {convolutions} convolutions, as no network of score_sde")
    wanted = nearest[agreed] if agreed < len(nearest) else NOTHING
    found, place = (kinds[agreed], modules[agreed].number) if agreed < len(kinds) else (NOTHING, len(modules))
    raise ValueError(f"all_modules.{place} is {found}, but the nearest network of score_sde has {wanted} there")


def _candidates(modules: list[Module]) -> Iterator[NCSNppConfig]:
    """The networks of the release's family with as many residual blocks."""
    places = [place for place, module in enumerate(modules) if module.kind == RESIDUAL]
    first = next((module.arrays["weight"] for module in modules if module.kind == CONV), None)
    if first is None:
        return
    channels, image = first.shape[:2]
    ddpm = any("NIN_0.W" in modules[place].arrays for place in places)
    combine = next((place for place, module in enumerate(modules) if module.kind == COMBINE), None)
    cat = combine is not None and combine + 1 < len(modules) and _is_cat(modules[combine], modules[combine + 1])
    for levels in range(1, len(places)):
        # There are two blocks in the middle, `blocks` in each level on the way down, and one more on the way up. BigGAN
        # has another two between levels, which resample.
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


def _is_cat(combine: Module, block: Module) -> bool:
    """Whether the image is concatenated to a level's features, not added: then the next norm has twice the channels."""
    norm = block.arrays.get("GroupNorm_0.weight")
    return norm is not None and len(norm) == 2 * len(combine.arrays["Conv_0.weight"])

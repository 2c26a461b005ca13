"""diffusers' `UNet2DModel`: its configuration as ours and back, and the names of its weights."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.pretrained.layout import LayerNames

# Options with the only value that is supported, which is also what a configuration without them means.
_FIXED = {
    "mid_block_type": "UNetMidBlock2D",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "time_embedding_dim": None,
}
# Options that are read, with what a configuration without them means.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1.0,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
}
_PLAIN = ("DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D")
_SKIP = ("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D")


def from_json(description: dict[str, Any]) -> tuple[NCSNppConfig, bool]:
    """Our architecture for a `UNet2DModel`'s configuration, and whether its label is [cos, sin].

    **Raises:** `ValueError` for a network that is not of the DDPM or NCSN++ family.
    """
    if (name := description.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise ValueError(f"_class_name={name!r}: must be UNet2DModel")
    if (kind := description.get("class_embed_type")) is not None:
        raise ValueError(f"class_embed_type={kind!r}: must be None; classes are read by an embedding table only")
    for key, only in _FIXED.items():
        if (value := description.get(key, only)) != only:
            raise ValueError(f"{key}={value!r}: must be {only!r}")
    d = {**_DEFAULTS, **{key: value for key, value in description.items() if key in _DEFAULTS}}
    skip = _check(d)
    channels, fourier, padding = d["block_out_channels"], d["time_embedding_type"] == "fourier", d["downsample_padding"]
    size = d["sample_size"] or 32
    height, width = (size, size) if isinstance(size, int) else size
    config = NCSNppConfig(
        shape=(height, width, d["in_channels"]),
        channels=channels[0],
        multipliers=tuple(count // channels[0] for count in channels),
        blocks=d["layers_per_block"],
        attention=tuple(height >> level for level, block in enumerate(d["down_block_types"]) if "Attn" in block),
        attention_up="last" if skip else "every",
        head_width=d["attention_head_dim"],
        resblock="biggan" if skip else "ddpm",
        downsample_padding=(0, 1) if padding == 0 or skip else (padding, padding),
        fir=skip,
        rescale=skip,
        groups=None if skip else d["norm_num_groups"],
        attention_groups=32 if skip else None,
        epsilon=d["norm_eps"],
        progressive="output_skip" if skip else "none",
        progressive_input="input_skip" if skip else "none",
        embedding=d["time_embedding_type"],
        frequency_shift=1 if fourier else d["freq_shift"],
        scale_by_sigma=fourier,
        dropout=d["dropout"],
        classes=d["num_class_embeds"] or 0,
    )
    return config, bool(d["flip_sin_to_cos"]) and not fourier


def _check(d: dict[str, Any]) -> bool:
    """Check the options against each other.

    **Returns:** whether the blocks are those of NCSN++, which have skips of their own.

    **Raises:** `ValueError` for a combination that is not of the DDPM or NCSN++ family.
    """
    blocks = [*d["down_block_types"], *d["up_block_types"]]
    skip = all(block in _SKIP for block in blocks)
    if not skip and not all(block in _PLAIN for block in blocks):
        raise ValueError(f"block types {', '.join(dict.fromkeys(blocks))}: must all be of {_PLAIN} or all of {_SKIP}")
    attends = ["Attn" in block for block in d["down_block_types"]]
    if attends != ["Attn" in block for block in reversed(d["up_block_types"])]:
        raise ValueError("down_block_types, up_block_types: must have attention at the same levels")
    channels = d["block_out_channels"]
    if any(count % channels[0] for count in channels):
        raise ValueError(f"block_out_channels={list(channels)}: must be multiples of the first")
    if d["in_channels"] != d["out_channels"]:
        raise ValueError(f"in_channels={d['in_channels']}, out_channels={d['out_channels']}: must be equal")
    embedding = d["time_embedding_type"]
    if embedding not in ("positional", "fourier"):
        raise ValueError(f"time_embedding_type={embedding!r}: must be positional or fourier")
    if embedding == "positional" and d["freq_shift"] not in (0, 1):
        raise ValueError(f"freq_shift={d['freq_shift']}: must be 0 or 1")
    _check_norms(d, skip)
    return skip


def _check_norms(d: dict[str, Any], skip: bool) -> None:
    """**Raises:** `ValueError` if the middle block's scale or the norms' groups are not those of the blocks."""
    wanted = math.sqrt(2.0) if skip else 1.0
    if not math.isclose(d["mid_block_scale_factor"], wanted, rel_tol=1e-6):
        raise ValueError(f"mid_block_scale_factor={d['mid_block_scale_factor']}: must be {wanted} for these blocks")
    channels, groups = d["block_out_channels"], d["norm_num_groups"]
    if not skip:
        if groups is None:
            raise ValueError("norm_num_groups=None: must be a number for these blocks")
        return
    if groups is not None and any(groups != min(channels[i] // 4, 32) for i in (0, -1)):
        raise ValueError(f"norm_num_groups={groups}: must be None, or min(channels // 4, 32), for these blocks")
    for block, own, coarser in zip(d["down_block_types"], channels, [*channels[1:], channels[-1]], strict=True):
        # diffusers takes min(inputs + skip // 4, 32) groups there.
        if "Attn" in block and min(own, coarser) < 32:
            raise ValueError(f"block_out_channels={list(channels)}: must be at least 32 in levels with attention")


def to_json(config: NCSNppConfig, centred: bool) -> dict[str, Any]:
    """The `UNet2DModel` configuration of an architecture. `centred` is that of `UnitRange`.

    **Raises:** `ValueError` if there is none.
    """
    skip = config.resblock == "biggan"
    family = "Skip" if skip else ""
    attends = ["Attn" if attend else "" for _, _, attend in config.levels()]
    channels = [count for _, count, _ in config.levels()]
    padding = config.downsample_padding
    height, width, colours = config.shape
    description = {
        "_class_name": "UNet2DModel",
        "sample_size": height if height == width else [height, width],
        "in_channels": colours,
        "out_channels": colours,
        "center_input_sample": config.scale_by_sigma and centred,
        "time_embedding_type": config.embedding,
        "freq_shift": config.frequency_shift,
        "flip_sin_to_cos": False,
        "down_block_types": [f"{attend}{family}DownBlock2D" for attend in attends],
        "up_block_types": [f"{attend}{family}UpBlock2D" for attend in reversed(attends)],
        "block_out_channels": channels,
        "layers_per_block": config.blocks,
        "mid_block_scale_factor": math.sqrt(2.0) if skip else 1,
        "downsample_padding": 0 if padding == (0, 1) and not skip else padding[1],
        "dropout": config.dropout,
        "attention_head_dim": config.head_width,
        "norm_num_groups": config.groups or (None if skip else 32),
        "norm_eps": config.epsilon,
        "num_class_embeds": config.classes or None,
        **_FIXED,
    }
    if config.head_width is None and config.heads != 1:
        raise ValueError(f"heads={config.heads}: diffusers' layout has one head, or heads of equal width")
    mine, theirs = _canonical(config), _canonical(from_json(description)[0])
    for field in dataclasses.fields(config):
        wanted, found = getattr(mine, field.name), getattr(theirs, field.name)
        if wanted != found:
            raise ValueError(f"{field.name}={wanted!r}: diffusers' layout has only {found!r} for this network")
    return description


def _canonical(config: NCSNppConfig) -> NCSNppConfig:
    """The same network, with defaults for the fields that it does not use or that change only its computation."""
    unused = ["dtype", "remat", "fourier_scale", "text_width", "progressive_combine"]
    if config.resblock == "biggan":
        unused += ["downsample_padding", "resample_with_conv"]
    if config.embedding == "fourier":
        unused += ["frequency_shift"]
    if all(count >= 128 for _, count, _ in config.levels()) and {config.groups, config.attention_groups} <= {None, 32}:
        unused += ["groups", "attention_groups"]  # 32 either way
    default = NCSNppConfig()
    return dataclasses.replace(config, **{name: getattr(default, name) for name in unused})


def entries(config: NCSNppConfig) -> Iterator[LayerNames]:
    """Every module of a network with its name in diffusers."""
    if config.embedding == "fourier":
        yield LayerNames("label.frequencies", "time_proj.weight", "vector")
    yield LayerNames("embed0", "time_embedding.linear_1", "dense")
    yield LayerNames("embed1", "time_embedding.linear_2", "dense")
    if config.classes:
        yield LayerNames("classes.embedding", "class_embedding.weight", "table")
    yield LayerNames("conv_in", "conv_in", "conv")
    yield from _down(config)
    yield from _residual("middle.block0", "mid_block.resnets.0", False)
    yield from _attention("middle.attention", "mid_block.attentions.0")
    yield from _residual("middle.block1", "mid_block.resnets.1", False)
    yield from _up(config)
    if config.progressive != "output_skip":
        yield LayerNames("norm_out", "conv_norm_out", "norm")
        yield LayerNames("conv_out", "conv_out", "conv")


def _down(config: NCSNppConfig) -> Iterator[LayerNames]:
    """The modules of the way down."""
    levels, channels = config.levels(), config.channels
    for i, (name, outputs, attend) in enumerate(levels):
        ours, theirs = f"down.{name}", f"down_blocks.{i}"
        for j in range(config.blocks):
            yield from _residual(f"{ours}.block{j}", f"{theirs}.resnets.{j}", channels != outputs)
            channels = outputs
            if attend:
                yield from _attention(f"{ours}.attention{j}", f"{theirs}.attentions.{j}")
        if i == len(levels) - 1:
            return
        if config.resblock == "biggan":
            yield from _residual(f"{ours}.downsample", f"{theirs}.resnet_down", True)
            yield LayerNames(f"{ours}.input", f"{theirs}.skip_conv", "conv1x1")
        else:
            yield LayerNames(f"{ours}.downsample.conv", f"{theirs}.downsamplers.0.conv", "conv")


def _up(config: NCSNppConfig) -> Iterator[LayerNames]:
    """The modules of the way up."""
    levels, skips = config.levels(), _skips(config)
    channels = skips[-1]
    for i, (name, outputs, attend) in enumerate(reversed(levels)):
        ours, theirs = f"up.{name}", f"up_blocks.{i}"
        finest = i == len(levels) - 1
        for j in range(config.blocks + 1):
            yield from _residual(f"{ours}.block{j}", f"{theirs}.resnets.{j}", channels + skips.pop() != outputs)
            channels = outputs
            if attend and (config.attention_up == "every" or j == config.blocks):
                number = j if config.attention_up == "every" else 0
                yield from _attention(f"{ours}.attention{j}", f"{theirs}.attentions.{number}")
        if config.progressive == "output_skip":
            # At the finest level they are the network's own.
            yield LayerNames(f"{ours}.norm_out", "conv_norm_out" if finest else f"{theirs}.skip_norm", "norm")
            yield LayerNames(f"{ours}.conv_out", "conv_out" if finest else f"{theirs}.skip_conv", "conv")
        if finest:
            return
        if config.resblock == "biggan":
            yield from _residual(f"{ours}.upsample", f"{theirs}.resnet_up", True)
        else:
            yield LayerNames(f"{ours}.upsample.conv", f"{theirs}.upsamplers.0.conv", "conv")


def _skips(config: NCSNppConfig) -> list[int]:
    """The channels of what the way down hands to the way up, in order."""
    skips = [config.channels]
    for i, (_, outputs, _) in enumerate(config.levels()):
        resampled = i < len(config.multipliers) - 1
        skips += [outputs] * (config.blocks + resampled)
    return skips


def _residual(ours: str, theirs: str, skip: bool) -> Iterator[LayerNames]:
    yield LayerNames(f"{ours}.norm0", f"{theirs}.norm1", "norm")
    yield LayerNames(f"{ours}.conv0", f"{theirs}.conv1", "conv")
    yield LayerNames(f"{ours}.embed", f"{theirs}.time_emb_proj", "dense")
    yield LayerNames(f"{ours}.norm1", f"{theirs}.norm2", "norm")
    yield LayerNames(f"{ours}.conv1", f"{theirs}.conv2", "conv")
    if skip:
        yield LayerNames(f"{ours}.skip", f"{theirs}.conv_shortcut", "conv1x1")


def _attention(ours: str, theirs: str) -> Iterator[LayerNames]:
    yield LayerNames(f"{ours}.norm", f"{theirs}.group_norm", "norm")
    for our, their in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out.0")):
        yield LayerNames(f"{ours}.{our}", f"{theirs}.{their}", "dense")

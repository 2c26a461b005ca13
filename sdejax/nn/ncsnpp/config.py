"""The configuration of a score network, and the configurations that were published."""

import dataclasses
from typing import Any, Literal

_SIZES = (32, 256, 1024)


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """A network of the DDPM, DDPM++ and NCSN++ family. Frozen and hashable: static under `jax.jit`.

    **Shape:**

    - `shape`: (height, width, channels) of the images. Every level halves height and width, so they must be divisible.
    - `channels`, `multipliers`: level i has channels * multipliers[i] channels.
    - `blocks`: residual blocks of a level on the way down; there is one more on the way up.
    - `patch`: patches of patch x patch pixels become the channels of one pixel before the first level.

    **Blocks:**

    - `resblock`: "biggan" changes the resolution inside a residual block. "ddpm" changes it between blocks, by a
      convolution if `resample_with_conv`.
    - `fir`: resample with a filter.
    - `downsample_padding`: the zeros (before, after) each axis of DDPM's strided convolution.
    - `attention`: the heights, after patching, of the levels with attention. On the way down it follows every block of
      such a level.
    - `attention_up`: on the way up attention follows "every" block of such a level, or only its "last".
    - `heads`: the heads of an attention. If `head_width` is given, there are channels // head_width heads instead.
    - `rescale`: divide the sum with a skip connection by sqrt(2).
    - `groups`, `epsilon`: of the group norms. None is min(channels // 4, 32) groups.
    - `attention_groups`: in levels with attention, the groups of the norms of attention and, on the way up, of the
      first norm of each block. None is `groups`.

    **Input and output:**

    - `progressive_input`: whether the downsampled image enters each level: "none", by a 1 x 1 convolution
      ("input_skip"), or by strided convolutions ("residual").
    - `progressive_combine`: whether the result of that 1 x 1 convolution is added ("sum") or concatenated ("cat").
    - `progressive`: whether each level adds to the output: "none", an image ("output_skip"), or features ("residual").
    - `conditional`: whether the label conditions the blocks.
    - `embedding`: embed the label by sinusoids ("positional"), whose lowest frequency `frequency_shift` sets, or by
      random Fourier features ("fourier"), whose frequencies have standard deviation `fourier_scale`.
    - `scale_by_sigma`: divide the output by exp(label). The label must then be the logarithm of the noise level.
    - `vocabulary`, `words`, `text_width`: the number of tokens, the words of a caption and the width of the text
      encoder. 0 words: no text.
    - `classes`: the number of classes, with the class that stands for none. 0: no classes.

    **Computation:**

    - `dropout`: the share of activations that training drops.
    - `dtype`: of the activations.
    - `remat`: compute the insides of the blocks again for the gradient instead of keeping them. A training step takes
      a third more time and much less memory.

    **Raises:** `ValueError` if a field or a combination of fields is outside its range.
    """

    shape: tuple[int, int, int] = (32, 32, 3)
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    attention_up: Literal["every", "last"] = "last"
    heads: int = 1
    head_width: int | None = None
    patch: int = 1
    resblock: Literal["biggan", "ddpm"] = "biggan"
    resample_with_conv: bool = True
    downsample_padding: tuple[int, int] = (0, 1)
    fir: bool = False
    rescale: bool = True
    groups: int | None = None
    attention_groups: int | None = None
    epsilon: float = 1e-6
    progressive: Literal["none", "output_skip", "residual"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    conditional: bool = True
    embedding: Literal["positional", "fourier"] = "positional"
    frequency_shift: Literal[0, 1] = 1
    fourier_scale: float = 16.0
    scale_by_sigma: bool = False
    dropout: float = 0.1
    vocabulary: int = 0
    words: int = 0
    text_width: int = 128
    classes: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        coarsest = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.shape[0] % coarsest or self.shape[1] % coarsest:
            raise ValueError(f"shape={self.shape}: height and width must be multiples of {coarsest}")
        if self.blocks < 1 or not self.multipliers:
            raise ValueError(f"blocks={self.blocks}, multipliers={self.multipliers}: at least one of each")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: must be at least 0 and below 1")
        if self.words and not self.conditional:
            raise ValueError(f"words={self.words}, conditional=False: a network with text is conditional")
        if self.classes and (self.words or not self.conditional):
            raise ValueError(f"classes={self.classes}: a network with classes is conditional and has no text")

    @property
    def embedding_width(self) -> int:
        """The width of the vector that conditions the blocks; 0 if the network is not conditional."""
        return 4 * self.channels if self.conditional else 0

    def levels(self) -> list[tuple[str, int, bool]]:
        """The name ("32x32") of each level, finest first, its channels, and whether it has attention."""
        levels = []
        for i, multiplier in enumerate(self.multipliers):
            height, width = (side // (self.patch * 2**i) for side in self.shape[:2])
            levels.append((f"{height}x{width}", self.channels * multiplier, height in self.attention))
        return levels

    @classmethod
    def ddpm(cls, size: int = 32, deep: bool = False, **changes: Any) -> "NCSNppConfig":
        """DDPM (Ho et al. 2020) as Song et al. 2021 train it, for images of side 32, 256 or 1024.

        `deep` doubles the blocks; `changes` are other fields.
        """
        published = _published(size, deep, {32: 2, 256: 2, 1024: 1})
        if size == 256:
            published["multipliers"] = (1, 1, 2, 2, 4, 4)
        return cls(**{**published, "resblock": "ddpm", "rescale": False, **changes})

    @classmethod
    def ddpmpp(cls, size: int = 32, deep: bool = False, **changes: Any) -> "NCSNppConfig":
        """DDPM++ (Song et al. 2021, appendix H), for VP and sub-VP; arguments as for `ddpm`."""
        return cls(**{**_published(size, deep, {32: 4, 256: 2, 1024: 1}), **changes})

    @classmethod
    def ncsnpp(cls, size: int = 32, deep: bool = False, **changes: Any) -> "NCSNppConfig":
        """NCSN++ (Song et al. 2021, appendix H), for VE; arguments as for `ddpm`.

        For 32 pixels the input is progressive, by strided convolutions. For more, input and output are progressive.
        """
        large = {"progressive": "output_skip", "progressive_input": "input_skip", "dropout": 0.0}
        return cls(
            **{
                **_published(size, deep, {32: 4, 256: 2, 1024: 1}),
                "fir": True,
                "embedding": "fourier",
                "scale_by_sigma": True,
                **({"progressive_input": "residual"} if size == 32 else large),
                **changes,
            }
        )


_CHOICES = {
    "attention_up": ("every", "last"),
    "resblock": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding": ("positional", "fourier"),
    "dtype": ("float32", "bfloat16"),
}


def _published(size: int, deep: bool, blocks: dict[int, int]) -> dict[str, Any]:
    """The fields that the published networks for images of one size have in common."""
    if size not in _SIZES:
        raise ValueError(f"size={size}: must be one of {', '.join(map(str, _SIZES))}")
    return {
        "shape": (size, size, 3),
        "channels": 16 if size == 1024 else 128,
        "multipliers": {32: (1, 2, 2, 2), 256: (1, 1, 2, 2, 2, 2, 2), 1024: (1, 2, 4, 8, 16, 32, 32, 32)}[size],
        "blocks": blocks[size] * (2 if deep else 1),
        "attention": (16,),
        "dropout": 0.1 if size == 32 else 0.0,
    }

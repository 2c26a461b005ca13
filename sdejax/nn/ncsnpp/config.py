"""What a score network is made of, and the networks that were published."""

import dataclasses
from typing import Any, Literal

_SIZES = (32, 256, 1024)


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """A network of the DDPM, DDPM++ and NCSN++ family. Frozen and hashable: static under `jax.jit`.

    **Shape:**

    - `shape`: (height, width, channels) of the images; the levels must divide height and width.
    - `channels`, `multipliers`: the channels of level i are channels * multipliers[i]; each level halves the size.
    - `blocks`: residual blocks per level (one more on the way up).
    - `patch`: folds patches of that size into channels before the first level.

    **Blocks:**

    - `resblock`: "biggan" changes resolution inside a residual block, "ddpm" between them, by a convolution where
      `resample_with_conv`; `fir` filters as it resamples. `downsample_padding` is the zeros before and after each axis
      of DDPM's strided convolution.
    - `attention`: the side lengths, after patching, of the levels with attention, behind every block of the way down
      and, by `attention_up`, behind "every" block of the way up or the "last" of a level. `heads` of them, or as many
      as `head_width` channels each make.
    - `rescale`: divide sums with a skip by sqrt(2).
    - `groups`, `epsilon`: of the group norms; None takes min(channels // 4, 32) groups. `attention_groups` are those
      of attention and of the first norms beside it on the way up, where they differ from the others.

    **Input and output:**

    - `progressive_input`: how the downsampled image enters each level: "input_skip" by a 1 x 1 convolution, summed or
      concatenated (`progressive_combine`); "residual" by strided convolutions.
    - `progressive`: how the levels make the output: "output_skip" sums images, "residual" features.
    - `conditional`: whether the label conditions the blocks; `embedding` of it by sinusoids ("positional", the lowest
      frequency set by `frequency_shift`) or by random Fourier features of `fourier_scale`.
    - `scale_by_sigma`: divide the output by exp(label), where the label is the logarithm of the noise level.
    - `vocabulary`, `words`, `text_width`: the text encoder (0 words: no text).
    - `classes`: how many classes the network is told apart, that of no class included (0: none).

    **Computation:** `dropout`; `dtype` of the inner activations; `remat` computes the blocks again for the gradient
    rather than keep their insides: a third more time for much less memory.

    **Raises:** `ValueError` where a field or a combination is outside its range.
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
        self._check_numbers()
        coarsest = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.shape[0] % coarsest or self.shape[1] % coarsest:
            raise ValueError(f"shape={self.shape}: height and width must be multiples of {coarsest}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout}: must be at least 0 and below 1")
        if self.words and not self.conditional:
            raise ValueError(f"words={self.words}, conditional=False: a network with text is conditional")
        if self.classes and (self.words or not self.conditional):
            raise ValueError(f"classes={self.classes}: a network with classes is conditional and has no text")

    def _check_numbers(self) -> None:
        for name in ("channels", "blocks", "heads", "head_width", "patch", "groups", "attention_groups", "text_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for name in ("vocabulary", "words", "classes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")
        for name, least in (("shape", 1), ("multipliers", 1), ("attention", 1), ("downsample_padding", 0)):
            value = getattr(self, name)
            if any(number < least for number in value) or (name == "multipliers" and not value):
                raise ValueError(f"{name}={value}: must be numbers of at least {least}")
        if self.groups is not None and self.channels % self.groups:
            raise ValueError(f"groups={self.groups}: must divide the {self.channels} channels")
        if not self.epsilon > 0.0:
            raise ValueError(f"epsilon={self.epsilon}: must be above 0")

    @property
    def embedding_width(self) -> int:
        """The width of the vector that conditions the blocks; 0 where nothing does."""
        return 4 * self.channels if self.conditional else 0

    def levels(self) -> list[tuple[str, int, bool]]:
        """For each level, finest first: its name ("32x32"), its channels, and whether it attends."""
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

        At 32 pixels the image enters by strided convolutions; above, it enters and leaves every level.
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
    """What the published networks for images of one size have in common."""
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

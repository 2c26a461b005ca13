"""Slow networks in numpy, written from the publications, that run on state dicts as PyTorch names them.

NCHW, float64, every tap of a convolution on its own: nothing here is shared with the library. A `Weights` that starts
empty makes up each parameter when a network first asks for it, and so yields a state dict in the order of the layers.
"""

import dataclasses

import numpy as np


class Weights:
    """A state dict; what is asked for and missing is drawn at random."""

    def __init__(self, seed=0, state=None):
        self.random, self.state = np.random.default_rng(seed), {} if state is None else state

    def __call__(self, name, *shape):
        if name not in self.state:
            values = self.random.standard_normal(shape, np.float32)
            if len(shape) > 1:
                values *= np.float32(np.prod(shape[:1] if name.endswith("W") else shape[1:]) ** -0.5)
            elif not name.endswith("W"):
                values = np.float32(0.3) * values + np.float32(name.endswith("weight"))
            self.state[name] = values
        assert self.state[name].shape == shape, name
        return self.state[name].astype(np.float64)


def swish(x):
    return x / (1.0 + np.exp(-x))


def linear(weights, name, x, outputs):
    weight, bias = weights(f"{name}.weight", outputs, x.shape[1]), weights(f"{name}.bias", outputs)
    return np.einsum("bi,oi->bo", x, weight) + bias


def convolve(x, weight, stride=1, before=1, after=1):
    """x (b, i, h, w) and weight (o, i, k, k), over zeros before and after each axis."""
    x = np.pad(x, [(0, 0), (0, 0), (before, after), (before, after)])
    size = weight.shape[2]
    total = 0.0
    for i in range(size):
        for j in range(size):
            rows, columns = x.shape[2] - size + 1 + i, x.shape[3] - size + 1 + j
            total = total + np.einsum("bihw,oi->bohw", x[:, :, i:rows:stride, j:columns:stride], weight[:, :, i, j])
    return total


def conv(weights, name, x, outputs, size=3, **how):
    weight = weights(f"{name}.weight", outputs, x.shape[1], size, size)
    if size == 1:
        how = {"before": 0, "after": 0}
    return convolve(x, weight, **how) + weights(f"{name}.bias", outputs)[:, None, None]


def nin(weights, name, x, outputs):
    weight, bias = weights(f"{name}.W", x.shape[1], outputs), weights(f"{name}.b", outputs)
    return np.einsum("bihw,io->bohw", x, weight) + bias[:, None, None]


def norm(weights, name, x, groups=None):
    b, c = x.shape[:2]
    groups = groups or min(c // 4, 32)
    y = x.reshape(b, groups, -1)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
    scale, bias = weights(f"{name}.weight", c), weights(f"{name}.bias", c)
    return y.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]


def attend(query, key, value):
    """One head over the pixels of (b, c, h, w)."""
    b, c, h, w = query.shape
    query, key, value = (y.reshape(b, c, h * w) for y in (query, key, value))
    logits = np.einsum("bcq,bck->bqk", query, key) / np.sqrt(c)
    mixing = np.exp(logits - logits.max(-1, keepdims=True))
    mixing /= mixing.sum(-1, keepdims=True)
    return np.einsum("bqk,bck->bcq", mixing, value).reshape(b, c, h, w)


def filtered(x, before, after, gain=1.0):
    """The filter [1, 3, 3, 1] / 8 along both axes, over zeros."""
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64.0 * gain
    b, c, h, w = x.shape
    out = np.asarray(convolve(x.reshape(b * c, 1, h, w), taps[None, None], before=before, after=after))
    return out.reshape(b, c, *out.shape[2:])


def apart(x):
    """Pixels at even places, zeros between them."""
    wide = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    wide[:, :, ::2, ::2] = x
    return wide


def down(x, fir):
    if fir:
        return filtered(x, 1, 1)[:, :, ::2, ::2]
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


def up(x, fir):
    return filtered(apart(x), 2, 1, gain=4.0) if fir else x.repeat(2, 2).repeat(2, 3)


def conv_down(weights, name, x, outputs, fir):
    if fir:
        weight, bias = (
            weights(f"{name}.Conv2d_0.weight", outputs, x.shape[1], 3, 3),
            weights(f"{name}.Conv2d_0.bias", outputs),
        )
        return convolve(filtered(x, 2, 2), weight, stride=2, before=0, after=0) + bias[:, None, None]
    return conv(weights, f"{name}.Conv_0", x, outputs, stride=2, before=0, after=1)


def conv_up(weights, name, x, outputs, fir):
    if not fir:
        return conv(weights, f"{name}.Conv_0", up(x, False), outputs)
    weight, bias = (
        weights(f"{name}.Conv2d_0.weight", outputs, x.shape[1], 3, 3),
        weights(f"{name}.Conv2d_0.bias", outputs),
    )
    # A strided transposed convolution, then the filter: the order of the release, where ours filters first.
    wide = convolve(apart(x)[:, :, :-1, :-1], weight, before=2, after=2)
    return filtered(wide, 1, 1, gain=4.0) + bias[:, None, None]


def sinusoids(label, width):
    half = width // 2
    phase = label[:, None] * 10000.0 ** (-np.arange(half) / (half - 1.0))
    return np.concatenate([np.sin(phase), np.cos(phase)], 1)


@dataclasses.dataclass(frozen=True)
class Release:
    """A network of score_sde, by the options of its configs; images (b, 3, h, w), centred."""

    channels: int = 8
    multipliers: tuple = (1, 2)
    blocks: int = 1
    attention: tuple = (4,)
    resblock: str = "biggan"
    with_conv: bool = True
    fir: bool = False
    rescale: bool = True
    groups: int | None = None
    progressive: str = "none"
    progressive_input: str = "none"
    combine: str = "sum"
    embedding: str = "positional"
    conditional: bool = True
    scale_by_sigma: bool = False

    def __call__(self, weights, x, label, sigma=None):
        """The output for the label: the number of the level, 999 t or, for Fourier features, the noise level."""
        count = iter(range(10**6))
        levels, image = len(self.multipliers), x.shape[1]

        def place():
            return f"all_modules.{next(count)}"

        def total(a, b):
            return (a + b) / np.sqrt(2.0) if self.rescale else a + b

        def block(x, outputs, resample=None):
            name = place()
            h = swish(norm(weights, f"{name}.GroupNorm_0", x, self.groups))
            if resample:
                h, x = resample(h, self.fir), resample(x, self.fir)
            h = conv(weights, f"{name}.Conv_0", h, outputs)
            # The layer is there, and in the state dict, also where nothing conditions.
            added = linear(
                weights, f"{name}.Dense_0", np.zeros((1, 4 * self.channels)) if temb is None else swish(temb), outputs
            )
            h = h if temb is None else h + added[:, :, None, None]
            h = conv(weights, f"{name}.Conv_1", swish(norm(weights, f"{name}.GroupNorm_1", h, self.groups)), outputs)
            if self.resblock == "biggan" and (x.shape[1] != outputs or resample):
                x = conv(weights, f"{name}.Conv_2", x, outputs, size=1)
            elif x.shape[1] != outputs:
                x = nin(weights, f"{name}.NIN_0", x, outputs)
            return total(x, h)

        def attention(x):
            name = place()
            h = norm(weights, f"{name}.GroupNorm_0", x, self.groups)
            h = attend(*(nin(weights, f"{name}.NIN_{k}", h, h.shape[1]) for k in range(3)))
            return total(x, nin(weights, f"{name}.NIN_3", h, h.shape[1]))

        def smaller(x):
            if self.resblock == "biggan":
                return block(x, x.shape[1], down)
            name = place()
            return conv_down(weights, name, x, x.shape[1], self.fir) if self.with_conv else down(x, self.fir)

        def larger(x):
            if self.resblock == "biggan":
                return block(x, x.shape[1], up)
            name = place()
            return conv_up(weights, name, x, x.shape[1], self.fir) if self.with_conv else up(x, self.fir)

        def emit(x, outputs):
            h = swish(norm(weights, place(), x, self.groups))
            return conv(weights, place(), h, outputs)

        temb = None
        if self.embedding == "fourier":
            phase = 2.0 * np.pi * np.log(label)[:, None] * weights(f"{place()}.W", self.channels)
            features = np.concatenate([np.sin(phase), np.cos(phase)], 1)
        else:
            features = sinusoids(label, self.channels)
        if self.conditional:
            temb = linear(weights, place(), features, 4 * self.channels)
            temb = linear(weights, place(), swish(temb), 4 * self.channels)
        pyramid = x
        h = conv(weights, place(), x, self.channels)
        skips = [h]
        for i in range(levels):
            for _ in range(self.blocks):
                h = block(h, self.channels * self.multipliers[i])
                if h.shape[-1] in self.attention:
                    h = attention(h)
                skips.append(h)
            if i == levels - 1:
                break
            h = smaller(h)
            if self.progressive_input == "input_skip":
                place()
                pyramid = down(pyramid, self.fir)
                own = conv(weights, f"{place()}.Conv_0", pyramid, h.shape[1], size=1)
                h = np.concatenate([own, h], 1) if self.combine == "cat" else own + h
            elif self.progressive_input == "residual":
                h = pyramid = total(conv_down(weights, place(), pyramid, h.shape[1], self.fir), h)
            skips.append(h)
        h = block(h, h.shape[1])
        h = attention(h)
        h = block(h, h.shape[1])
        output = None
        for i in reversed(range(levels)):
            for _ in range(self.blocks + 1):
                h = block(np.concatenate([h, skips.pop()], 1), self.channels * self.multipliers[i])
            if h.shape[-1] in self.attention:
                h = attention(h)
            if self.progressive == "output_skip":
                if output is not None:
                    place()
                    output = up(output, self.fir)
                own = emit(h, image)
                output = own if output is None else output + own
            elif self.progressive == "residual":
                if output is None:
                    output = emit(h, h.shape[1])
                else:
                    h = output = total(conv_up(weights, place(), output, h.shape[1], self.fir), h)
            if i > 0:
                h = larger(h)
        out = output if self.progressive == "output_skip" else emit(h, image)
        return out / sigma[:, None, None, None] if self.scale_by_sigma else out


@dataclasses.dataclass(frozen=True)
class Ported:
    """DDPM as ported to PyTorch; images (b, 3, h, w)."""

    channels: int = 32
    multipliers: tuple = (1, 2)
    blocks: int = 1
    attention: tuple = (4,)

    def __call__(self, weights, x, level):
        def block(name, x, outputs):
            h = conv(weights, f"{name}.conv1", swish(norm(weights, f"{name}.norm1", x, 32)), outputs)
            h = h + linear(weights, f"{name}.temb_proj", swish(temb), outputs)[:, :, None, None]
            h = conv(weights, f"{name}.conv2", swish(norm(weights, f"{name}.norm2", h, 32)), outputs)
            return h + (x if x.shape[1] == outputs else conv(weights, f"{name}.nin_shortcut", x, outputs, size=1))

        def attention(name, x):
            h, c = norm(weights, f"{name}.norm", x, 32), x.shape[1]
            h = attend(*(conv(weights, f"{name}.{part}", h, c, size=1) for part in "qkv"))
            return x + conv(weights, f"{name}.proj_out", h, c, size=1)

        levels = len(self.multipliers)
        temb = linear(weights, "temb.dense.0", sinusoids(level, self.channels), 4 * self.channels)
        temb = linear(weights, "temb.dense.1", swish(temb), 4 * self.channels)
        h = conv(weights, "conv_in", x, self.channels)
        skips = [h]
        for i, multiplier in enumerate(self.multipliers):
            for j in range(self.blocks):
                h = block(f"down.{i}.block.{j}", h, self.channels * multiplier)
                if h.shape[-1] in self.attention:
                    h = attention(f"down.{i}.attn.{j}", h)
                skips.append(h)
            if i < levels - 1:
                h = conv(weights, f"down.{i}.downsample.conv", h, h.shape[1], stride=2, before=0, after=1)
                skips.append(h)
        h = block("mid.block_1", h, h.shape[1])
        h = block("mid.block_2", attention("mid.attn_1", h), h.shape[1])
        for i in reversed(range(levels)):
            for j in range(self.blocks + 1):
                h = np.concatenate([h, skips.pop()], 1)
                h = block(f"up.{i}.block.{j}", h, self.channels * self.multipliers[i])
                if h.shape[-1] in self.attention:
                    h = attention(f"up.{i}.attn.{j}", h)
            if i > 0:
                h = conv(weights, f"up.{i}.upsample.conv", up(h, False), h.shape[1])
        return conv(weights, "conv_out", swish(norm(weights, "norm_out", h, 32)), x.shape[1])

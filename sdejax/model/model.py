"""A model: a network, its parameters, the process it was trained on, and what its output means.

`Model.denoiser` turns it into what the samplers take: a callable pytree whose leaves are the parameters and the
prompt, so that new weights, prompts and guidance scales run the program that is already compiled.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike

from sdejax.denoiser.guidance import GuidedDenoiser
from sdejax.denoiser.prediction import denoised
from sdejax.denoiser.protocol import Denoiser
from sdejax.model.parametrisation import Parametrisation
from sdejax.nn.layers import parameter_keys
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.ncsnpp.network import NCSNpp, structure
from sdejax.pytrees import STATIC, PerImage, pytree
from sdejax.sde.base import SDE
from sdejax.text.vocabulary import Vocabulary


class UnknownWordWarning(UserWarning):
    """A prompt has a word that the model never saw."""


@pytree
@dataclasses.dataclass(frozen=True)
class NetworkDenoiser:
    """A network as a denoiser (eq. 6). Parameters and tokens are leaves, the rest is static."""

    graph: Any = dataclasses.field(metadata=STATIC)
    sde: SDE = dataclasses.field(metadata=STATIC)
    parametrisation: Parametrisation = dataclasses.field(metadata=STATIC)
    params: Any
    tokens: jax.Array | PerImage | None = None

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        """t () or (b,), x (b, h, w, c) -> E[x0 | x_t = x]."""
        times = jnp.asarray(t, x.dtype)
        tokens = self.tokens
        if isinstance(tokens, PerImage):
            tokens = tokens.value
            if tokens.shape[0] != x.shape[0]:
                raise ValueError(f"prompts={tokens.shape[0]}: must be one text, or one for each of {x.shape[0]} images")
        elif tokens is not None:
            tokens = jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:]))
        how = self.parametrisation
        output = how.evaluate(nnx.merge(self.graph, self.params), self.sde, times, x, tokens)
        return denoised(how.prediction, self.sde, times, x, output, how.data_std)


@dataclasses.dataclass(frozen=True)
class Model:
    """What `sdejax.load` returns. Immutable; `dataclasses.replace` makes variants.

    `shape` is (height, width, channels) of one image.
    """

    config: NCSNppConfig
    sde: SDE
    parametrisation: Parametrisation
    params: Any
    vocabulary: Vocabulary | None = None
    graph: Any = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.graph is None:
            object.__setattr__(self, "graph", structure(self.config)[0])

    @classmethod
    def create(
        cls,
        config: NCSNppConfig,
        sde: SDE,
        parametrisation: Parametrisation,
        seed: int = 0,
        vocabulary: Vocabulary | None = None,
    ) -> "Model":
        """A model with fresh parameters."""

        def initialise(seed: jax.Array):
            return nnx.split(NCSNpp(config, parameter_keys(jax.random.key(seed, impl="rbg"))))[1]

        # One program that runs once: what counts is how fast it compiles.
        params = jax.jit(initialise, compiler_options={"xla_backend_optimization_level": 0})(np.uint32(seed))
        return cls(config, sde, parametrisation, params, vocabulary)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        return self.config.shape

    @property
    def parameter_count(self) -> int:
        """How many trained numbers the network has."""
        return sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(self.params) if isinstance(leaf, nnx.Param))

    def denoiser(
        self,
        prompt: str | Sequence[str] | None = None,
        guidance: ArrayLike | None = None,
        negative: str | Sequence[str] = "",
    ) -> Denoiser:
        """The denoiser, unconditional or given a prompt.

        **Arguments:**

        - `prompt`: a text, or a sequence of one text per image of the batch; `None` or "" is unconditional.
        - `guidance`: the scale w of classifier-free guidance, D = D_neg + w (D_prompt - D_neg), which costs a second
          network evaluation; `None` evaluates the prompt alone. 1 is the prompt alone, 0 the negative one.
        - `negative`: what to guide away from; "" is the unconditional model.

        **Raises:** `ValueError` for a prompt or guidance where the model reads no text, or a guidance that is not
        finite. A word that the model does not know gives an `UnknownWordWarning` with the nearest that it knows.
        """
        if self.vocabulary is None and (prompt or guidance is not None or negative):
            raise ValueError(f"prompt={prompt!r}: this model was trained without text and takes no prompt")
        conditional = self._given(prompt or "")
        if guidance is None:
            if negative:
                raise ValueError(f"negative={negative!r}: needs a guidance scale")
            return conditional
        if not isinstance(guidance, Tracer) and not np.all(np.isfinite(guidance)):
            raise ValueError(f"guidance={guidance}: must be a finite number")
        return GuidedDenoiser(conditional, self._given(negative), np.float32(guidance))  # pyright: ignore[reportArgumentType]

    def _given(self, prompt: str | Sequence[str]) -> NetworkDenoiser:
        tokens = None
        if self.vocabulary is not None:
            captions = [prompt] if isinstance(prompt, str) else list(prompt)
            _warn_of_unknown_words(self.vocabulary, captions)
            encoded: Any = self.vocabulary.encode(captions)  # numpy: a new prompt must compile nothing
            tokens = encoded if isinstance(prompt, str) else PerImage(encoded)
        return NetworkDenoiser(self.graph, self.sde, self.parametrisation, self.params, tokens)


def _warn_of_unknown_words(vocabulary: Vocabulary, captions: list[str]) -> None:
    for caption in captions:
        for word, near in vocabulary.unknown(caption).items():
            hint = f"; the nearest that it knows: {', '.join(near)}" if near else ""
            warnings.warn(f"the model does not know the word {word!r}{hint}", UnknownWordWarning, stacklevel=4)

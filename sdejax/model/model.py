"""A model: a network, the process that it was trained on, what its output means, its prompts, and its codec.

`Model.denoiser` turns it into what the samplers take: a callable pytree whose leaves are the parameters and the
prompt, so that new weights, prompts and guidance scales run the program that is already compiled.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from sdejax.denoiser.guidance import GuidedDenoiser
from sdejax.denoiser.protocol import Denoiser
from sdejax.model.codec import Codec, Identity
from sdejax.model.conditioners import Conditioner, Unconditional
from sdejax.model.networks import FlaxNetwork, Network, parameter_count
from sdejax.model.parametrisation import Parametrisation
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.pytrees import STATIC, PerImage, pytree
from sdejax.sde.base import SDE
from sdejax.solvers.sampler import STEPS, Sampler
from sdejax.text.vocabulary import Vocabulary


class UnknownWordWarning(UserWarning):
    """A prompt has a word that the model never saw."""


@pytree
@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as a network reads it: what the conditioner made of one text, arrays (1, ...) or None."""

    condition: Any


@pytree
@dataclasses.dataclass(frozen=True)
class NetworkDenoiser:
    """A network as a denoiser (eq. 6). Parameters and condition are leaves, the rest is static."""

    network: Network
    sde: SDE = dataclasses.field(metadata=STATIC)
    parametrisation: Parametrisation = dataclasses.field(metadata=STATIC)
    condition: Any = None

    def __call__(self, t: ArrayLike, x: jax.Array) -> jax.Array:
        """t () or (b,), x (b, *shape) -> E[x0 | x_t = x]."""
        times = jnp.asarray(t, x.dtype)
        condition = _for_each_image(self.condition, x.shape[0])
        output = self.parametrisation.evaluate(self.network, self.sde, times, x, condition)
        return self.parametrisation.denoised(self.sde, times, x, output)

    def __repr__(self) -> str:
        return f"NetworkDenoiser({self.network!r}, {self.sde!r})"


def _for_each_image(condition: Any, images: int) -> Any:
    """A condition for each image: one of all images is repeated, those of single images must be as many."""
    if not isinstance(condition, PerImage):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (images, *leaf.shape[1:])), condition)
    for leaf in jax.tree.leaves(condition.value):
        if leaf.shape[0] != images:
            raise ValueError(f"prompts={leaf.shape[0]}: must be one text, or one for each of {images} images")
    return condition.value


@dataclasses.dataclass(frozen=True)
class Model:
    """What `sdejax.load` returns. Immutable; `dataclasses.replace` makes variants.

    - `network`: a callable pytree (x, label, condition) -> output.
    - `sde`: the process that it was trained on.
    - `parametrisation`: what its output means, and what it is told of the time.
    - `conditioner`: what turns prompts into the network's `condition`.
    - `codec`: what turns images into the state that the process acts on; the state of a pixel model is the image.
    - `shape`: (height, width, channels) of one state; that of the network's configuration if it has one.
    - `source`: where the weights are from, such as the SHA-256 of their file.

    **Raises:** `ValueError` if there is no shape.
    """

    network: Network
    sde: SDE
    parametrisation: Parametrisation = Parametrisation()
    conditioner: Conditioner = Unconditional()
    codec: Codec = Identity()
    shape: tuple[int, int, int] = ()  # pyright: ignore[reportAssignmentType]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.shape:
            if not isinstance(self.network, FlaxNetwork):
                raise ValueError("shape: must be given for a network without a configuration, such as (32, 32, 3)")
            object.__setattr__(self, "shape", self.network.config.shape)

    @classmethod
    def create(
        cls,
        config: NCSNppConfig,
        sde: SDE,
        parametrisation: Parametrisation | None = None,
        seed: int = 0,
        conditioner: Conditioner | None = None,
    ) -> "Model":
        """A model with fresh parameters."""
        parts = (parametrisation or Parametrisation(), conditioner or Unconditional())
        return cls(FlaxNetwork.create(config, seed), sde, *parts)

    @property
    def params(self) -> Any:
        """The parameters of a flax network."""
        return self._flax.params

    @property
    def config(self) -> NCSNppConfig:
        """The configuration of a flax network."""
        return self._flax.config

    @property
    def _flax(self) -> FlaxNetwork:
        if not isinstance(self.network, FlaxNetwork):
            raise ValueError(f"network={type(self.network).__name__}: must be a flax network of this library")
        return self.network

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words of a model with text, or None."""
        return self.conditioner if isinstance(self.conditioner, Vocabulary) else None

    @property
    def parameter_count(self) -> int:
        """How many trained numbers the network has."""
        if isinstance(self.network, FlaxNetwork):
            return parameter_count(self.network.params)
        return sum(np.size(leaf) for leaf in jax.tree.leaves(self.network))

    def with_params(self, params: Any) -> "Model":
        """The model with other parameters of its flax network."""
        return dataclasses.replace(self, network=dataclasses.replace(self._flax, params=params))

    def denoiser(
        self,
        prompt: str | Prompt | Sequence[str] | None = None,
        guidance: ArrayLike | None = None,
        negative: str | Prompt | Sequence[str] = "",
    ) -> Denoiser:
        """The denoiser, unconditional or given a prompt.

        **Arguments:**

        - `prompt`: a text, a `Prompt`, or a sequence of one text per image of the batch; `None` or "" is unconditional.
        - `guidance`: the scale w of classifier-free guidance, D = D_neg + w (D_prompt - D_neg), which costs a second
          network evaluation; `None` evaluates the prompt alone. 1 is the prompt alone, 0 the negative one. It may be
          traced: another one compiles nothing.
        - `negative`: what to guide away from; "" is the unconditional model.

        **Raises:** `ValueError` for a prompt or guidance if the model has no prompts, or a guidance that is not
        finite. A word that the model does not know gives an `UnknownWordWarning` with the nearest that it knows.
        """
        if not self.conditioner.prompted and (guidance is not None or negative):
            raise ValueError(f"prompt={prompt!r}: this model was trained without text and takes no prompt")
        conditional = self._given(prompt or "")
        if guidance is None:
            if negative:
                raise ValueError(f"negative={negative!r}: needs a guidance scale")
            return conditional
        if not isinstance(guidance, Tracer) and not np.all(np.isfinite(guidance)):
            raise ValueError(f"guidance={guidance}: must be a finite number")
        scale = guidance if isinstance(guidance, jax.Array) else np.float32(guidance)  # pyright: ignore[reportArgumentType]
        return GuidedDenoiser(conditional, self._given(negative), scale)

    def prompts(self, texts: Sequence[str]) -> list[Prompt]:
        """Texts as the network reads them, each encoded once.

        **Raises:** `ValueError` for a text that the model does not take; unknown words give an `UnknownWordWarning`.
        """
        self._warn_of_unknown_words(texts)
        return [Prompt(self.conditioner.encode([text])) for text in texts]

    def encode(self, image: ArrayLike) -> jax.Array:
        """The state (b, *state_shape) of images (b, h, w, c) in [-1, 1]."""
        return self.codec.encode(image)

    def decode(self, state: jax.Array) -> jax.Array:
        """The images (b, h, w, c) of a state (b, *state_shape)."""
        return self.codec.decode(state)

    def latent_mask(self, mask: ArrayLike) -> jax.Array:
        """A mask of pixels (b, h, w, 1) in [0, 1] as one of the state."""
        return self.codec.state_mask(mask)

    def compose(
        self, image: ArrayLike, state: jax.Array, edited: jax.Array, *, mask: ArrayLike | None = None
    ) -> jax.Array:
        """The image (b, h, w, c) with the change that an edit made to its state, `edited` - `state`.

        If the two states are equal, the image comes back bit for bit, although a codec may lose detail; so does every
        pixel that the `mask` (b, h, w, 1) keeps.
        """
        change = self.codec.decode(edited) - self.codec.decode(state)
        image = jnp.asarray(image)
        changed = image + change
        return changed if mask is None else jnp.where(jnp.asarray(mask) > 0.0, changed, image)

    def sampler(self, steps: int = STEPS, size: tuple[int, int] | None = None) -> Sampler:
        """The model's own sampler for images of `size` (height, width); a pixel model has the same for every size."""
        del size
        return Sampler(steps)

    def _given(self, prompt: str | Prompt | Sequence[str]) -> NetworkDenoiser:
        if isinstance(prompt, Prompt):
            return NetworkDenoiser(self.network, self.sde, self.parametrisation, prompt.condition)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._warn_of_unknown_words(texts)
        encoded = self.conditioner.encode(texts)
        if not isinstance(prompt, str) and encoded is not None:
            encoded = PerImage(encoded)
        return NetworkDenoiser(self.network, self.sde, self.parametrisation, encoded)

    def _warn_of_unknown_words(self, texts: Sequence[str]) -> None:
        for text in texts:
            for word, near in self.conditioner.unknown(text).items():
                hint = f"; the nearest that it knows: {', '.join(near)}" if near else ""
                warnings.warn(f"the model does not know the word {word!r}{hint}", UnknownWordWarning, stacklevel=4)

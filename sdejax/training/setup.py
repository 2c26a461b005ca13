"""From a config to what a run works with: data, a model with fresh parameters, the state on its devices, the step."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sdejax.model.model import Model
from sdejax.pretrained.load import load as load_model
from sdejax.runtime.sharding import images_sharding, join, place, state_shardings, train_mesh
from sdejax.text.vocabulary import Vocabulary
from sdejax.training.config import Config
from sdejax.training.data.batches import Images, load, normalise
from sdejax.training.data.sources import open_images
from sdejax.training.step import TrainState, abstract_state, init_state, make_train_step
from sdejax.training.validation import Validation, whole_rows


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run works with. `tokens` (n, words) are the images' captions, `abstract` is the state's layout."""

    config: Config
    mesh: Mesh
    images: Images
    tokens: np.ndarray | None
    held_out: Images | None
    model: Model
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    abstract: TrainState

    def fresh_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        params = place(self.model.params, state_shardings(self.model.params, self.mesh))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        return jax.jit(lambda params: _init(self.config, params), out_shardings=shardings)(params)

    def inputs(self, batch: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array | None]:
        """A batch of this process as the step's arguments, joined with those of the others."""
        tokens = batch.get("tokens")
        return join(batch["image"], self.mesh), None if tokens is None else join(tokens, self.mesh)

    def abstract_inputs(self) -> tuple[Any, Any]:
        """The shapes of `inputs`."""
        sharding, batch = images_sharding(self.mesh), self.config.batch
        tokens = None
        if self.tokens is not None:
            tokens = jax.ShapeDtypeStruct((batch, self.tokens.shape[1]), self.tokens.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct((batch, *self.model.shape), np.uint8, sharding=sharding), tokens

    def prompts(self) -> list[str] | None:
        """Captions for sample sheets, of held-out images where there are any."""
        if self.model.vocabulary is None:
            return None
        return list((self.held_out or self.images).captions)

    def validation(self, count: int = 256) -> Validation | None:
        """The first held-out images, as many as `count` or fewer."""
        if self.held_out is None:
            return None
        chosen = whole_rows(len(self.held_out.names), count, self.mesh.size)
        pixels = load(self.held_out, chosen, self.model.shape, self.config.crop)
        captions = tuple(str(self.held_out.captions[i]) for i in chosen)
        return Validation(self.model, self.mesh, normalise(pixels), captions, self.config.seed)


def _init(config: Config, params: Any) -> TrainState:
    return init_state(params, config.optimiser.make(config.steps), len(config.ema))


def _fresh(config: Config, images: Images) -> Model:
    """A model with fresh parameters, whose words are those of the images' captions."""
    network, vocabulary = config.network, None
    if config.captions:
        vocabulary = Vocabulary.of(list(images.captions))
        network = dataclasses.replace(network, vocabulary=vocabulary.size, words=vocabulary.length)
    return Model.create(network, config.sde, config.parametrisation, config.seed, vocabulary)


def _started(config: Config) -> Model:
    """The model that the run goes on from."""
    model = load_model(config.start)
    if config.captions != (model.vocabulary is not None):
        reads = "reads no text" if config.captions else "reads text"
        raise ValueError(f"start={config.start!r}: {reads}, and captions={config.captions}; they must agree")
    return model


def set_up(config: Config) -> Setup:
    """Open the data and make the model and its step.

    **Raises:** `ValueError` where the config, the data and the devices do not fit together.
    """
    mesh = train_mesh(config.fsdp)
    if config.batch % (config.accumulate * mesh.size):
        raise ValueError(
            f"batch={config.batch}: must be a multiple of {config.accumulate * mesh.size}, "
            f"the number of devices ({mesh.size}) times accumulate ({config.accumulate})"
        )
    opened = partial(
        open_images,
        captioned=config.captions,
        image_column=config.image_column,
        caption_column=config.caption_column,
    )
    images, held_out = opened(config.data), opened(config.validation) if config.validation else None
    model = _started(config) if config.start else _fresh(config, images)
    tokens = None if model.vocabulary is None else model.vocabulary.encode(list(images.captions))
    step = make_train_step(
        model.graph, model.sde, model.parametrisation, config.objective, config.optimiser.make(config.steps),
        config.ema, config.seed, accumulate=config.accumulate, mesh=mesh,
    )  # fmt: skip
    abstract = abstract_state(model.params, config.optimiser.make(config.steps), len(config.ema), mesh)
    return Setup(config, mesh, images, tokens, held_out, model, step, abstract)

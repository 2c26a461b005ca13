"""From a config to what a run works with: data, a model with fresh parameters, the state on its devices, the step."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sdejax.model.conditioners import ClassLabels, Unconditional
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
    """What a run works with.

    `conditions` (n, ...) are what the model's conditioner made of the images' captions or classes, or None. `abstract`
    is the state's layout.
    """

    config: Config
    mesh: Mesh
    images: Images
    conditions: np.ndarray | None
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
        conditions = batch.get("condition")
        return join(batch["image"], self.mesh), None if conditions is None else join(conditions, self.mesh)

    def abstract_inputs(self) -> tuple[Any, Any]:
        """The shapes of `inputs`."""
        sharding, batch = images_sharding(self.mesh), self.config.batch
        conditions = None
        if self.conditions is not None:
            shape = (batch, *self.conditions.shape[1:])
            conditions = jax.ShapeDtypeStruct(shape, self.conditions.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct((batch, *self.model.shape), np.uint8, sharding=sharding), conditions

    def prompts(self) -> list[str] | None:
        """Captions for sample sheets, of held-out images where there are any."""
        if not self.model.conditioner.prompted:
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
    """A model with fresh parameters, whose words are those of the images' captions, or whose classes are theirs."""
    network, conditioner = config.network, Unconditional()
    if config.captions:
        conditioner = Vocabulary.of(list(images.captions))
        network = dataclasses.replace(network, vocabulary=conditioner.size, words=conditioner.length)
    elif config.classes:
        conditioner = ClassLabels(tuple(sorted(set(map(str, images.captions)))))
        network = dataclasses.replace(network, classes=conditioner.size)
    return Model.create(network, config.sde, config.parametrisation, config.seed, conditioner)


def _started(config: Config) -> Model:
    """The model that the run goes on from."""
    model = load_model(config.start)
    for name, kind in (("captions", Vocabulary), ("classes", ClassLabels)):
        if getattr(config, name) != isinstance(model.conditioner, kind):
            told = type(model.conditioner).__name__
            raise ValueError(
                f"start={config.start!r}: is told {told}, and {name}={getattr(config, name)}; they must agree"
            )
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
    conditions = model.conditioner.encode(list(images.captions)) if model.conditioner.prompted else None
    optimiser = config.optimiser.make(config.steps)
    step = make_train_step(
        model, config.objective, optimiser, config.ema, config.seed, accumulate=config.accumulate, mesh=mesh
    )
    abstract = abstract_state(model.params, optimiser, len(config.ema), mesh)
    return Setup(config, mesh, images, conditions, held_out, model, step, abstract)

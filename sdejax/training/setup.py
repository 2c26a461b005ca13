"""From a config to everything that a run works with: data, a model, the layout of the state, and the step."""

import dataclasses
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from sdejax.model.conditioners import ClassLabels, Conditioner, Unconditional
from sdejax.model.model import Model
from sdejax.pretrained.load import load as load_model
from sdejax.runtime.sharding import images_sharding, join, place, state_shardings, train_mesh
from sdejax.text.vocabulary import Vocabulary
from sdejax.training.config import Config
from sdejax.training.data.batches import Images, load, normalise
from sdejax.training.data.sources import open_images
from sdejax.training.step import TrainState, TrainStep, abstract_state, init_state, make_train_step
from sdejax.training.validation import Validation, whole_rows


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that a run works with.

    - `config`, `mesh`: the configuration, and the devices.
    - `images`, `held_out`: the training images, and those of the validation, if any.
    - `conditions`: what the model's conditioner made of the training images' prompts, (n, ...), or None.
    - `model`: the model with the parameters that the run starts from.
    - `step`: the jitted update.
    - `abstract`: the shapes of the state, and its sharding.
    """

    config: Config
    mesh: Mesh
    images: Images
    held_out: Images | None
    conditions: np.ndarray | None
    model: Model
    step: TrainStep
    abstract: TrainState

    def fresh_state(self) -> TrainState:
        """The state before the first step, on the devices."""
        params = place(self.model.params, state_shardings(self.model.params, self.mesh))
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        make = partial(
            init_state, optimiser=self.config.optimiser.make(self.config.steps), averages=len(self.config.ema)
        )
        return jax.jit(make, out_shardings=shardings)(params)

    def inputs(self, batch: dict[str, np.ndarray]) -> tuple[jax.Array, jax.Array | None]:
        """The images and conditions of all processes, as the step takes them, from this process's rows of a batch."""
        conditions = batch.get("tokens")
        return join(batch["image"], self.mesh), None if conditions is None else join(conditions, self.mesh)

    def abstract_inputs(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct | None]:
        """The shapes of `inputs`."""
        sharding, batch = images_sharding(self.mesh), self.config.batch
        conditions = None
        if self.conditions is not None:
            shape = (batch, *self.conditions.shape[1:])
            conditions = jax.ShapeDtypeStruct(shape, self.conditions.dtype, sharding=sharding)
        return jax.ShapeDtypeStruct((batch, *self.model.shape), np.uint8, sharding=sharding), conditions

    def prompts(self) -> list[str] | None:
        """The prompts for sheets of samples: those of the held-out images, or else of the training images."""
        if not self.model.conditioner.prompted:
            return None
        return prompts_of(self.config, self.held_out or self.images)

    def validation(self, count: int = 256) -> Validation | None:
        """The first held-out images, at most about `count`."""
        if self.held_out is None:
            return None
        chosen = whole_rows(len(self.held_out.names), count, self.mesh.size)
        pixels = load(self.held_out, chosen, self.model.shape, self.config.crop)
        prompts = prompts_of(self.config, self.held_out)
        return Validation(self.model, self.mesh, normalise(pixels), tuple(prompts[i] for i in chosen), self.config.seed)


def set_up(config: Config) -> Setup:
    """Open the data, and make the model and its step.

    **Raises:** `ValueError` if the config, the data and the devices do not fit together.
    """
    mesh = train_mesh(config.fsdp)
    if config.batch % (config.accumulate * mesh.size):
        raise ValueError(
            f"batch={config.batch}: must be a multiple of {config.accumulate * mesh.size}, "
            f"the number of devices ({mesh.size}) times accumulate ({config.accumulate})"
        )
    images, held_out = _open(config, config.data), _open(config, config.validation) if config.validation else None
    model = _started(config) if config.start else _fresh(config, images)
    conditions = _encoded(config, "data", model.conditioner, images)
    if held_out is not None:
        _encoded(config, "validation", model.conditioner, held_out)  # now, not at the first validation
    optimiser = config.optimiser.make(config.steps)
    step = make_train_step(
        model, config.objective, optimiser, config.ema, config.seed, accumulate=config.accumulate, mesh=mesh
    )
    abstract = abstract_state(model.params, optimiser, len(config.ema), mesh)
    return Setup(config, mesh, images, held_out, conditions, model, step, abstract)


def prompts_of(config: Config, images: Images) -> list[str]:
    """The prompt of each image: its caption or class, or "" if the model takes no prompts."""
    return list(images.classes if config.classes else images.captions)


def _open(config: Config, path: str) -> Images:
    return open_images(
        path,
        captioned=config.captions,
        classes=config.classes,
        image_column=config.image_column,
        caption_column=config.caption_column,
    )


def _fresh(config: Config, images: Images) -> Model:
    """A model with fresh parameters. Its prompts are the words of the images' captions, or the images' classes."""
    network, conditioner = config.network, Unconditional()
    if config.captions:
        conditioner = Vocabulary.of(prompts_of(config, images))
        network = dataclasses.replace(network, vocabulary=conditioner.size, words=conditioner.length)
    elif config.classes:
        conditioner = ClassLabels(tuple(sorted(set(prompts_of(config, images)))))
        network = dataclasses.replace(network, classes=conditioner.size)
    return Model.create(network, config.sde, config.parametrisation, config.seed, conditioner)


def _started(config: Config) -> Model:
    """The model whose weights the run starts from."""
    model = load_model(config.start)
    for name, kind in (("captions", Vocabulary), ("classes", ClassLabels)):
        if getattr(config, name) != isinstance(model.conditioner, kind):
            told = f"{name}={getattr(config, name)}"
            raise ValueError(
                f"start={config.start!r}: the model's prompts are {model.conditioner}; {told} does not fit"
            )
    return model


def _encoded(config: Config, field: str, conditioner: Conditioner, images: Images) -> np.ndarray | None:
    """What the conditioner makes of the images' prompts. `field` is what errors call the images."""
    if not conditioner.prompted:
        return None
    try:
        return conditioner.encode(prompts_of(config, images))
    except ValueError as error:
        raise ValueError(f"{field}={getattr(config, field)!r}: {error}") from None

"""The programs that can be planned: generation and training, lowered for chips that are not here."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sdejax.jobs.plan.topology import Topology
from sdejax.model.conditioners import Unconditional
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.pretrained.load import load
from sdejax.runtime.sharding import image_mesh, images_sharding, train_mesh
from sdejax.sampling.sample import _sample
from sdejax.solvers.sampler import Sampler, with_grid
from sdejax.text.vocabulary import Vocabulary
from sdejax.training.config import Config, load_config
from sdejax.training.step import abstract_state, make_train_step

# The words of the captions are known only when the data is read. Until then a model with captions is assumed to know
# this many words, and to read this many of each caption. At emoji64's width of 192 the table of words takes 3 MiB.
ASSUMED_WORDS, ASSUMED_LENGTH = 4096, 16


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered program. Nearly all of its work is in the body of a loop that runs `repeats` times."""

    kind: Literal["generation", "training"]
    batch: int
    repeats: int
    dtype: str
    lowered: jax.stages.Lowered


def model_of(path: str | Path) -> tuple[Model, Config | None]:
    """The model of a config file, without its data, and the config; or a model that `load` reads, and None.

    **Raises:** `ValueError` if the path is neither.
    """
    if Path(path).suffix not in (".py", ".json"):
        return load(path), None
    config = load_config(path)
    return load(config.start) if config.start else abstract_model(config), config


def abstract_model(config: Config) -> Model:
    """The model of a config with shapes in place of its parameters, which takes no memory."""
    network, conditioner = config.network, Unconditional()
    if config.captions:
        conditioner = Vocabulary(tuple(f"word{i}" for i in range(ASSUMED_WORDS)), ASSUMED_LENGTH)
        network = dataclasses.replace(network, vocabulary=conditioner.size, words=conditioner.length)
    return Model(FlaxNetwork.abstract(network), config.sde, config.parametrisation, conditioner)


def generation(
    model: Model,
    topology: Topology,
    batch: int | None = None,
    sampler: Sampler | None = None,
    guidance: float | None = None,
) -> Program:
    """`sdejax.sampling.sample` of `batch` images over all chips, by default one image for each chip.

    **Raises:** `ValueError` if the batch is no multiple of the chips, or for guidance if the model has no text.
    """
    sampler = with_grid(sampler, "edm")
    mesh = image_mesh(topology.devices)
    batch = mesh.size if batch is None else batch
    _check_batch(batch, mesh.size, "the number of chips")
    denoiser = _shapes(model.denoiser(None, guidance), NamedSharding(mesh, P()))
    keys = _shapes(
        jax.eval_shape(jax.vmap(jax.random.key), np.zeros(batch, np.uint32)), NamedSharding(mesh, P("image"))
    )
    lowered = _lower(_sample, denoiser, keys, model.sde, model.shape, sampler)
    return Program("generation", batch, sampler.steps, model.config.dtype, lowered)


def training(
    config: Config, model: Model, topology: Topology, batch: int | None = None, fsdp: int | None = None
) -> Program:
    """A training step over all chips. `batch` and `fsdp` replace the values of the config.

    **Raises:** `ValueError` if the batch, the chips, `fsdp` and the config's `accumulate` do not fit together.
    """
    mesh = train_mesh(config.fsdp if fsdp is None else fsdp, topology.devices)
    batch, parts = config.batch if batch is None else batch, config.accumulate
    _check_batch(batch, parts * mesh.size, f"the number of chips ({mesh.size}) times accumulate ({parts})")
    optimiser = config.optimiser.make(config.steps)
    step = make_train_step(model, config.objective, optimiser, config.ema, config.seed, accumulate=parts, mesh=mesh)
    images = jax.ShapeDtypeStruct((batch, *model.shape), np.uint8, sharding=images_sharding(mesh))
    conditions = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype, sharding=images_sharding(mesh)),
        model.conditioner.encode([""]),
    )
    state = abstract_state(model.params, optimiser, len(config.ema), mesh)
    return Program("training", batch, parts, model.config.dtype, _lower(step, state, images, conditions))


def _check_batch(batch: int, unit: int, meaning: str) -> None:
    if batch < 1 or batch % unit:
        raise ValueError(f"batch={batch}: must be a multiple of {unit}, {meaning}")


def _lower(function: Any, *args: Any) -> jax.stages.Lowered:
    """Lower a function that `sdejax.runtime.jit.jit` made, without the compiler options of this machine."""
    return function.lower_plain(*args)


def _shapes(tree: Any, sharding: NamedSharding) -> Any:
    """The tree with shapes in place of its arrays."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)

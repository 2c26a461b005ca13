"""A network small enough to compile in seconds, with parameters that do something everywhere, and edits for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sdejax.evaluation.edits import EditCase
from sdejax.media.images import to_array
from sdejax.model.conditioners import Unconditional
from sdejax.model.model import Model
from sdejax.model.networks import FlaxNetwork
from sdejax.model.parametrisation import Parametrisation
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.sde.variance_preserving import VPSDE
from sdejax.text.vocabulary import Vocabulary

PROMPTS = ("red heart", "blue heart", "green circle", "square")
VOCABULARY = Vocabulary.of(["red heart", "blue heart", "green circle on a square"])
# One level, for what is tested of programs around a network: it compiles in half the time of two.
CONFIG = NCSNppConfig(
    shape=(8, 8, 3),
    channels=8,
    multipliers=(1,),
    blocks=1,
    attention=(8,),
    heads=2,
    dropout=0.0,
    vocabulary=VOCABULARY.size,
    words=VOCABULARY.length,
    text_width=8,
)
TWO_LEVELS = dataclasses.replace(CONFIG, multipliers=(1, 2), attention=(4,))


def parameters(config, seed=0, scale=0.3):
    """Random parameters that hide nothing, as a fresh network's zeros would, and that no program has to draw."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        values = random.standard_normal(leaf.shape, np.float32)
        if leaf.ndim > 1:
            return np.float32(np.hypot(scale, np.prod(leaf.shape[:-1]) ** -0.5)) * values
        return np.float32(scale) * values + ("scale" in jax.tree_util.keystr(path))

    abstract = FlaxNetwork.abstract(config).params
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, abstract))


def tiny_model(config=CONFIG, sde=None, parametrisation=None, seed=0, scale=0.3):
    """A model with text where the config has words."""
    network = FlaxNetwork(config, parameters(config, seed, scale))
    conditioner = VOCABULARY if config.words else Unconditional()
    return Model(network, sde or VPSDE(), parametrisation or Parametrisation(), conditioner)


def tiny_edits(count=4, truth=True):
    """Noise with prompts; a truth keeps the upper half."""
    random = np.random.default_rng(0)
    images = to_array(random.integers(0, 256, (count + 1, 8, 8, 3), dtype=np.uint8))
    return [
        EditCase(
            f"edit {i}",
            images[i],
            PROMPTS[i % 4],
            PROMPTS[(i + 1) % 4],
            truth=np.where(np.arange(8)[:, None, None] < 4, images[i], images[i + 1]) if truth else None,
            family=f"family {i % 2}",
            unseen=i % 3 == 0,
        )
        for i in range(count)
    ]

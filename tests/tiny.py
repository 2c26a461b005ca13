"""A network small enough to compile in seconds, with parameters that do something everywhere."""

import jax
import numpy as np

from sdejax.model import Model, Parametrisation
from sdejax.nn.ncsnpp import NCSNppConfig
from sdejax.nn.text import Vocabulary
from sdejax.sde import VPSDE

VOCABULARY = Vocabulary.of(["red heart", "blue heart", "green circle on a square"])
CONFIG = NCSNppConfig(
    shape=(8, 8, 3),
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(4,),
    heads=2,
    dropout=0.0,
    vocabulary=VOCABULARY.size,
    words=VOCABULARY.length,
    text_width=8,
)


def shaken(params, seed=0, scale=0.3):
    """Parameters moved off their start, where the last layers are zero and would hide what is before them."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + np.float32(scale) * random.standard_normal(leaf.shape, np.float32), params)


def tiny_model(config=CONFIG, sde=None, parametrisation=None, seed=0):
    """A model with text where the config has words."""
    vocabulary = VOCABULARY if config.words else None
    model = Model.create(config, sde or VPSDE(), parametrisation or Parametrisation(), seed, vocabulary)
    return Model(model.config, model.sde, model.parametrisation, shaken(model.params, seed), vocabulary, model.graph)

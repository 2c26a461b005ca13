"""Networks as callable pytrees: flax modules with their parameters, and the one list of the classes that can be saved.

A network of another library needs nothing of this: any callable pytree (x, label, condition) -> output will do, such as
an equinox module, or a dataclass with arrays.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from sdejax.nn.initialise import parameter_keys
from sdejax.nn.ncsnpp.config import NCSNppConfig
from sdejax.nn.ncsnpp.network import NCSNpp
from sdejax.pytrees import STATIC, pytree
from sdejax.runtime.jit import program_store


class Network(Protocol):
    """A callable pytree: its arrays are its parameters, everything else is static."""

    def __call__(self, x: jax.Array, label: jax.Array, condition: Any, key: jax.Array | None = None) -> jax.Array:
        """x (b, *shape), label (b,), condition (b, ...) or None -> (b, *shape). `key` is given in training only."""
        ...


NETWORKS: dict[type, Callable[[Any, nnx.Rngs], nnx.Module]] = {NCSNppConfig: NCSNpp}
"""The flax module of each class of configurations: a network class of this library is one line here."""


@pytree
@dataclasses.dataclass(frozen=True)
class FlaxNetwork:
    """A flax.nnx network in its functional form: its configuration is static, its parameters are leaves.

    `config` is hashable, with a `shape` (h, w, c) of one image.
    """

    config: NCSNppConfig = dataclasses.field(metadata=STATIC)
    params: Any

    def __call__(self, x: jax.Array, label: jax.Array, condition: Any, key: jax.Array | None = None) -> jax.Array:
        """The module, merged with the parameters."""
        return nnx.merge(structure(self.config)[0], self.params)(x, label, condition, key)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.config.shape))
        return f"{NETWORKS[type(self.config)].__name__}({size}, {parameter_count(self.params) / 1e6:.3g} M parameters)"  # pyright: ignore[reportAttributeAccessIssue]

    @classmethod
    def create(cls, config: NCSNppConfig, seed: int = 0) -> "FlaxNetwork":
        """A network with fresh parameters."""

        def initialise(seed: jax.Array):
            return nnx.split(NETWORKS[type(config)](config, parameter_keys(jax.random.key(seed, impl="rbg"))))[1]

        # One program that runs once: what counts is how fast it compiles.
        params = jax.jit(initialise, compiler_options={"xla_backend_optimization_level": 0})(np.uint32(seed))
        return cls(config, params)

    @classmethod
    def abstract(cls, config: NCSNppConfig) -> "FlaxNetwork":
        """The network with shapes in place of its parameters: costs no memory."""
        return cls(config, structure(config)[1])


@functools.lru_cache(maxsize=32)
def structure(config: NCSNppConfig) -> tuple[Any, Any]:
    """A network's graph, and its parameters' shapes in place of the parameters: costs no memory."""

    def make() -> tuple[Any, Any]:
        module = NETWORKS[type(config)]
        return nnx.split(nnx.eval_shape(lambda: module(config, parameter_keys(jax.random.key(0)))))

    store = program_store()
    return store.remembered("structure", repr(config), make) if store else make()


def parameter_count(params: Any) -> int:
    """How many trained numbers there are."""
    return sum(math.prod(leaf.shape) for _, leaf in nnx.to_flat_state(params) if isinstance(leaf, nnx.Param))

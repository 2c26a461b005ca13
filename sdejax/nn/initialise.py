"""How fresh parameters are drawn."""

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

# Song et al. 2021 initialise as DDPM does: uniform, scaled by the mean of fan-in and fan-out.
default_init = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")
zero_init = nnx.initializers.zeros_init()


class _CountedKeys(nnx.Rngs):
    """A key for each parameter, counted in Python."""

    def __init__(self, key: PRNGKeyArray):
        self._key, self._count = key, 0

    def params(self) -> PRNGKeyArray:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def parameter_keys(key: PRNGKeyArray) -> nnx.Rngs:
    """`nnx.Rngs(params=key)` for networks that are made inside a trace.

    `nnx.Rngs` counts in a traced variable, which takes time quadratic in the number of parameters.
    """
    return _CountedKeys(key)

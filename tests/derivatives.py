"""What can be differentiated by, and the check that both modes agree with central differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import sdejax as sj
from sdejax.model.parametrisation import Parametrisation
from tests.quick_keys import quick_keys

SHAPE = (2, 2, 3)
KEYS = quick_keys(2)
_WEIGHTS = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
_STEP = 1e-2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A layer of a network, which reads a prompt vector."""

    weights: jax.Array
    prompts: jax.Array

    def __call__(self, x, label, condition):
        hidden = x.reshape(len(x), -1) @ self.weights + condition @ self.prompts + 0.1 * label[:, None]
        return jnp.tanh(hidden).reshape(x.shape)


def parameters(random):
    """A value for everything that there is to differentiate by."""
    normal, uniform = random.standard_normal, random.uniform
    return jax.tree.map(
        np.float32,
        {
            "network": {"weights": 0.2 * normal((12, 12)), "prompts": 0.5 * normal((2, 12))},
            "prompt": normal((1, 2)),
            "scale": 1.7,
            "image": uniform(-1.0, 1.0, (2, *SHAPE)),
            "mask": random.choice([0.0, 0.45, 0.7], (2, *SHAPE)),
            "strength": 0.63,
        },
    )


def denoisers(at, sde):
    """An unconditional model, and one with a prompt under guidance."""
    network, how = Network(**at["network"]), Parametrisation(sj.EDM(0.5), sj.TimeLabel(1.0))
    plain, prompted = (
        sj.NetworkDenoiser(network, sde, how, condition) for condition in (0.0 * at["prompt"], at["prompt"])
    )
    return plain, sj.GuidedDenoiser(prompted, plain, at["scale"])


def check(function, edges=(), but=()):
    """The derivatives of a function of `parameters()` to images, by each of them.

    Forward mode is compared with reverse mode and, except for the names `but`, with central differences. At the
    parameters `edges`, where differences have no meaning, both modes must be finite and agree.
    """
    random = np.random.default_rng(3)
    at = parameters(random)

    def loss(at):
        return jnp.sum(_WEIGHTS * function(at))

    forward, reverse = jax.jit(lambda at, along: jax.jvp(loss, (at,), (along,))), jax.jit(jax.grad(loss))
    nothing = jax.tree.map(np.zeros_like, at)

    def modes(at, name, gradient):
        # A mask stays above 0, and between the times of the grid: by a mask there is a kink at each, and a jump if an
        # inversion lets a value go there.
        moved = 0.2 * (at["mask"] > 0.0) if name == "mask" else 1.0
        along = jax.tree.map(lambda x: np.float32(moved * random.standard_normal(np.shape(x))), at[name])
        products = jax.tree.map(lambda slope, v: np.sum(np.asarray(slope, np.float64) * v), gradient[name], along)
        return along, float(forward(at, {**nothing, name: along})[1]), sum(jax.tree.leaves(products))

    gradient = reverse(at)
    for name in at:
        along, slope, backward = modes(at, name, gradient)
        np.testing.assert_allclose(slope, backward, rtol=1e-3, atol=1e-4, err_msg=name)
        if name not in but:
            one, two = (_difference(forward, at, nothing, name, along, step) for step in (_STEP, 2.0 * _STEP))
            # Float32 over a step of 0.01; the fourth order leaves less. A derivative that stops somewhere, at a grid's
            # times, a start's noise, a guide that is under the change too, or a repeat, is off by a tenth and more.
            np.testing.assert_allclose(slope, (4.0 * one - two) / 3.0, rtol=2e-3, atol=2e-3, err_msg=name)
    for edge in edges:
        there = {**at, **edge}
        gradient = reverse(there)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)), edge
        for name in there:
            _, slope, backward = modes(there, name, gradient)
            np.testing.assert_allclose(slope, backward, rtol=1e-3, atol=1e-3, err_msg=f"{name} at {edge}")


def _difference(forward, at, nothing, name, along, step):
    ends = [
        float(forward({**at, name: jax.tree.map(lambda x, v, h=h: np.float32(x + h * v), at[name], along)}, nothing)[0])
        for h in (step, -step)
    ]
    return (ends[0] - ends[1]) / (2.0 * step)

"""A denoiser's loss is the exact one's and what it is off by: L(D) - L(D*) = E w(t) |D(t, x_t) - D*(t, x_t)|^2.

D* is the conditional mean, so the product of D - D* with D* - x0 has no mean, whatever D is, and whatever the network
predicts. The expectations over data and noise are Gauss-Hermite sums, exact to float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.model.parametrisation import Parametrisation
from sdejax.training.objective import Objective, score_matching_loss

WEIGHTS, MEANS, STDS = (np.array(x, np.float32) for x in ([0.4, 0.6], [[-0.6], [0.5]], [0.3, 0.4]))
LEVELS = np.array([0.3, 1.0, 3.0], np.float32)
DATA_STD, GAMMA = 0.5, 5.0
PREDICTIONS = [
    sj.PredictCleanImage(),
    sj.PredictNoise(),
    sj.PredictV(),
    sj.PredictVelocity(),
    sj.PredictDisplacement(),
    sj.EDM(DATA_STD),
    sj.PredictScore(),
    sj.PredictScaledScore(),
]


def exact(sde):
    return sj.MixtureDenoiser(sde, WEIGHTS, MEANS, STDS)


def wrong(sde):
    """Off by a curve, and by a shift, each of them more at more noise."""
    return lambda t, x: exact(sde)(t, x) + (0.1 + 0.3 * sde.sigma(t)[:, None]) * jnp.sin(x - 0.7)


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network of that prediction outputs so that it means `denoiser`; it is told the time itself."""

    denoiser: sj.Denoiser
    sde: sj.SDE
    prediction: sj.Prediction

    def __call__(self, inputs, t, condition):
        x = inputs / self.prediction.input(self.sde, t, jnp.ones_like(inputs))
        # D is affine in the output.
        zero, one = (self.prediction.denoised(self.sde, t, x, jnp.full_like(x, value)) for value in (0.0, 1.0))
        return (self.denoiser(t, x) - zero) / (one - zero)


def nodes():
    """Pairs (x0, e) and their weights: the mixture's and the noise's own nodes, (n, 1) each and (n,)."""
    at, weight = np.polynomial.hermite_e.hermegauss(24)
    weight = weight / weight.sum()
    x0 = np.concatenate([m + s * at for m, s in zip(MEANS[:, 0], STDS, strict=True)])
    of_x0 = np.concatenate([w * weight for w in WEIGHTS])
    pairs = np.stack(np.meshgrid(x0, at, indexing="ij"), -1).reshape(-1, 2)
    return pairs[:, :1].astype(np.float32), pairs[:, 1:].astype(np.float32), np.outer(of_x0, weight).reshape(-1)


def weighting_of_denoiser(name, sde, t):
    """w of |D - x0|^2 at the times t, from the table of `Objective`, in float64 with a numerical slope."""
    tau = np.asarray(sde.tau(t), np.float64)
    slope = (np.asarray(sde.tau(t + 1e-3), np.float64) - np.asarray(sde.tau(t - 1e-3), np.float64)) / 2e-3
    return {
        "noise": 1.0 / tau,
        "likelihood": 0.5 * slope / tau**2,
        "edm": 1.0 / tau + 1.0 / DATA_STD**2,
        "min_snr": np.minimum(1.0 / tau, GAMMA),
    }[name]


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("sde", [sj.VPSDE(), sj.RectifiedFlow(), sj.VESDE()], ids=["VP", "RF", "VE"])
def test_the_loss_exceeds_the_exact_denoisers_by_the_squared_distance_from_it(sde, prediction):
    parametrisation = Parametrisation(prediction, sj.TimeLabel(1.0))
    x0, noise, weight = nodes()
    times = np.asarray(sde.time(LEVELS**2))
    at = np.repeat(times, len(x0))
    x0, noise = (np.tile(values, (len(times), 1)) for values in (x0, noise))

    @jax.jit
    def losses():
        x = sde.perturb(at, x0, noise)
        found = [
            score_matching_loss(Network(d, sde, prediction), sde, parametrisation, at, noise, x0, None, None)
            for d in (wrong(sde), exact(sde))
        ]
        return found[0] - found[1], jnp.square(wrong(sde)(at, x) - exact(sde)(at, x))[:, 0]

    excess, squared = (np.asarray(values, np.float64).reshape(len(times), -1) @ weight for values in losses())
    # Float32 of a difference of losses. A target that is not what `denoised` inverts (v of the other sign, noise - x0
    # for the velocity of VP) leaves the product of D - D* with another error than D* - x0, of its own size.
    for weighting in ("noise", "likelihood", "edm", "min_snr"):
        objective = Objective(weighting, gamma=GAMMA)
        found = objective.weights(sde, parametrisation, times) * excess
        # The output's scale itself for its square, 1 / tau for 1 / tau^2, or data_std for its square are off by 2.
        np.testing.assert_allclose(found, weighting_of_denoiser(weighting, sde, times) * squared, rtol=2e-3)
    # "output" is the loss as it is; in terms of D it is divided by the square of what an output of 1 moves D by.
    scale = np.asarray(prediction.denoised(sde, times, np.zeros((3, 1), np.float32), np.ones((3, 1), np.float32)))[:, 0]
    found = Objective("output").weights(sde, parametrisation, times) * excess
    np.testing.assert_allclose(found, squared / scale**2, rtol=2e-3)

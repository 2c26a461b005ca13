"""The objective and the training step, against theory."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sdejax as sj
from sdejax.denoiser.prediction import (
    EDM,
    PredictCleanImage,
    PredictDisplacement,
    PredictNoise,
    PredictScaledScore,
    PredictScore,
    PredictV,
    PredictVelocity,
)
from sdejax.media.images import to_array
from sdejax.model.model import Model
from sdejax.model.parametrisation import Parametrisation
from sdejax.runtime.sharding import images_sharding, place, state_shardings, train_mesh
from sdejax.text.vocabulary import EMPTY, UNKNOWN
from sdejax.training.objective import Objective, score_matching_loss
from sdejax.training.step import init_state, make_train_step
from tests.tiny import CONFIG, VOCABULARY, tiny_model

SMALL = dataclasses.replace(CONFIG, words=0, attention=(), multipliers=(1,))


def test_noise_levels_are_log_normal_and_stratified(sde):
    """One level in each of n equally likely strata: Kolmogorov-Smirnov distance at most 1/n.

    Independent draws would have about 0.9 / sqrt(n) = 0.056. Rejects sigma for tau (twice the spread), and a normal
    distribution of the level itself.
    """
    objective, count = Objective(level_mean=-0.5, level_std=1.2), 256
    times = objective.sample_times(jax.random.key(3), sde, count)
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 1.0
    log_level = np.sort(0.5 * np.log(np.asarray(sde.tau(times), np.float64)))
    uniform = np.asarray(jax.scipy.stats.norm.cdf((log_level + 0.5) / 1.2))
    inside = (log_level > np.log(0.0101)) & (log_level < np.log(49.0))  # the process clips the far tails
    assert np.abs(uniform - (np.arange(count) + 0.5) / count)[inside].max() < 1.02 / count


def test_times_are_in_random_order():
    # If the strata were sorted, the first image of every batch would always have the least noise.
    times = np.asarray(Objective().sample_times(jax.random.key(0), sj.VPSDE(), 128))
    assert abs(np.corrcoef(times, np.arange(128))[0, 1]) < 0.3


def test_edm_targets_have_unit_variance_at_every_level_and_process(sde):
    """For data of standard deviation data_std, E |target|^2 = 1, the loss of a network that outputs 0.

    Five standard errors of 2 * 8 * 8 * 3 * 64 values. Rejects c_out without data_std, and sigma for sigma / alpha.
    """
    model = Model.create(SMALL, sde, Parametrisation(EDM(0.3)))
    images = 0.3 * jax.random.normal(jax.random.key(0), (128, *SMALL.shape))
    noise = jax.random.normal(jax.random.key(1), images.shape)
    loss = jax.jit(
        lambda network, times: score_matching_loss(
            network, sde, model.parametrisation, times, noise, images, None, None
        )
    )
    for level in (0.05, 0.6, 20.0):
        losses = loss(model.network, jnp.full(128, sde.time(jnp.float32(level**2))))
        assert abs(float(losses.mean()) - 1.0) < 5 * np.sqrt(2.0 / images.size)


def test_uniform_and_importance_times_have_their_densities(sde):
    """Kolmogorov-Smirnov distance of stratified draws below 1/n.

    Rejects a range from t = 0, at which the loss of the noise has no meaning, and importance in tau for log tau.
    """
    count = 256
    ideal = (np.arange(count) + 0.5) / count
    first, last = float(sde.time(sde.tau_min)), float(sde.time(sde.tau_max))
    times = np.sort(np.asarray(Objective(times="uniform").sample_times(jax.random.key(0), sde, count), np.float64))
    assert np.abs((times - first) / (last - first) - ideal).max() < 1.02 / count
    times = jnp.sort(Objective(times="importance").sample_times(jax.random.key(0), sde, count))
    log_tau = np.log(np.asarray(sde.tau(times), np.float64))
    log_range = np.log(sde.tau_max) - np.log(sde.tau_min)
    # VP's tau at its largest times has a relative rounding error of 1e-5 in float32.
    assert np.abs((log_tau - np.log(sde.tau_min)) / log_range - ideal).max() < 1.05 / count


PREDICTIONS = (
    PredictCleanImage(),
    PredictNoise(),
    PredictV(),
    PredictVelocity(),
    PredictDisplacement(),
    EDM(0.4),
    PredictScore(),
    PredictScaledScore(),
)


@pytest.mark.parametrize("weighting", ["noise", "likelihood", "edm", "min_snr"])
def test_a_weighted_loss_does_not_depend_on_what_the_network_predicts(sde, weighting):
    """One denoiser with one error, expressed in each prediction, has one weighted loss.

    Rejects the scale of another prediction's output, which is off by orders of magnitude at most levels.
    """
    objective = Objective(weighting=weighting, data_std=0.4)
    levels = jnp.asarray([0.02, 0.3, 1.0, 8.0])
    times = sde.time(levels**2)
    x0, noise, wrong = jax.random.normal(jax.random.key(2), (3, 4, 6))
    found = []
    for prediction in PREDICTIONS:
        scale = np.asarray(prediction.denoised(sde, times, jnp.zeros(4), jnp.ones(4)))
        right = prediction.target(sde, times, x0, noise)
        output = right + wrong / scale[:, None]
        # The target has the precision of float32, and the error is a good part of it: 1e-4 of their difference is left.
        weights = objective.weights(sde, Parametrisation(prediction), times)
        found.append(weights * jnp.sum(jnp.square(output - right), axis=1))
    for loss in found[1:]:
        np.testing.assert_allclose(loss, found[0], rtol=1e-3)


def test_weightings_are_equal_where_theory_says_so(sde):
    """edm's weighting of EDM's output is 1, and noise's of the noise; min_snr is one of noise and x0 at its ends.

    Rejects data_std squared or missing, and a maximum for the minimum.
    """
    times = sde.time(jnp.asarray([0.02, 0.3, 1.0, 8.0]) ** 2)
    ones = np.ones(4)

    def weights(prediction, **how):
        return Objective(**how).weights(sde, Parametrisation(prediction), times)

    np.testing.assert_allclose(weights(EDM(0.4), weighting="edm"), ones, rtol=1e-4)
    np.testing.assert_allclose(weights(PredictNoise(), weighting="noise"), ones, rtol=1e-4)
    for prediction in PREDICTIONS:
        np.testing.assert_allclose(weights(prediction, weighting="output"), ones, rtol=1e-6)
    np.testing.assert_allclose(weights(PredictCleanImage(), weighting="min_snr", gamma=1e-6), 1e-6 * ones, rtol=1e-6)
    np.testing.assert_allclose(weights(PredictNoise(), weighting="min_snr", gamma=1e6), ones, rtol=1e-4)


@pytest.mark.parametrize("times", ["uniform", "importance"])
def test_the_likelihood_weighting_measures_the_divergence(sde, times):
    """Between Gaussian data p and the exact denoiser of another Gaussian q, the weighted loss exceeds its minimum by
    KL(p || q) at the smallest noise minus that at the largest (Song et al. 2021b, theorem 1, with equality).

    2% is four standard errors of the draws. Rejects a missing half, 1 / tau for 1 / tau^2, no dtau/dt, and an
    importance density that is not divided out.
    """
    p, q = sj.GaussianDenoiser(sde, 0.1, 0.5), sj.GaussianDenoiser(sde, 0.4, 0.7)
    objective = Objective(weighting="likelihood", times=times)
    draws = objective.sample_times(jax.random.key(0), sde, 4096)
    key, other = jax.random.split(jax.random.key(1))
    x0 = 0.1 + 0.5 * jax.random.normal(key, (4096, 256))
    x = sde.perturb(draws, x0, jax.random.normal(other, x0.shape))
    weights = objective.weights(sde, Parametrisation(PredictCleanImage()), draws)
    # E |D_q - x0|^2 - E |D_p - x0|^2 = E |D_q - D_p|^2, since D_p is the conditional mean.
    excess = jnp.mean(jnp.square(q(draws, x) - p(draws, x)), axis=1)
    found = float(jnp.mean(weights * excess)) * float(sde.time(sde.tau_max) - sde.time(sde.tau_min))

    def divergence(tau):
        a, b = 0.5**2 + tau, 0.7**2 + tau
        return 0.5 * (a / b + 0.3**2 / b - 1.0 - np.log(a / b))

    assert found == pytest.approx(divergence(sde.tau_min) - divergence(sde.tau_max), rel=0.02)


def test_words_and_captions_are_hidden_at_their_rates():
    # Five standard errors. Rejects hidden padding, a hidden word in the empty caption, and the two rates exchanged.
    tokens = jnp.tile(jnp.asarray(VOCABULARY.encode(["green circle on a square"])), (4000, 1))
    dropped = np.asarray(VOCABULARY.dropped(jax.random.key(0), tokens, 0.2, 0.05))
    empty = dropped[:, 0] == EMPTY
    assert abs(empty.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    assert (dropped[empty, 1:] == 0).all()
    words = dropped[~empty]
    assert abs((words == UNKNOWN).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / words.size)


def _step_of(model, learning_rate=1e-2, decay=0.9):
    optimiser = optax.sgd(learning_rate)
    step = make_train_step(model, Objective(), optimiser, decay, seed=5)
    return init_state(model.params, optimiser), step


def test_the_moving_average_is_exponential_with_a_warm_up():
    """EMA_n = d_n EMA_(n-1) + (1 - d_n) p_n with d_n = min(0.9, (1 + n) / (10 + n)).

    Rejects averaging the old parameters, and a decay without warm-up (then step 1 moves by 0.1, not 9/11).
    """
    state, step = _step_of(tiny_model(SMALL))
    images = jax.random.uniform(jax.random.key(0), (4, *SMALL.shape), minval=-1.0)
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
    for n in range(1, 4):
        state, _ = step(state, images, None)
        decay = min(0.9, (1 + n) / (10 + n))
        new = [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, new, strict=True)]
    assert int(state.step) == 3
    for value, leaf in zip(expected, jax.tree.leaves(state.ema[0]), strict=True):
        np.testing.assert_allclose(leaf, value, rtol=1e-5, atol=1e-6)


def test_the_random_numbers_of_a_step_depend_on_its_number_alone():
    # They come from (seed, step), so a resumed run repeats them, and the next step has others.
    images = jax.random.uniform(jax.random.key(0), (4, *SMALL.shape), minval=-1.0)
    state, step = _step_of(tiny_model(SMALL), learning_rate=0.0)
    losses = []
    for _ in range(2):
        state, metrics = step(state, images, None)
        losses.append(float(metrics["loss"]))
    again, _ = _step_of(tiny_model(SMALL), learning_rate=0.0)
    _, metrics = step(again, images, None)
    assert float(metrics["loss"]) == losses[0]
    assert losses[1] != losses[0]


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    """Only the counts change, and the next good step is as if there had been no bad step before.

    Rejects a moving average or Adam's moments with the bad gradient in them, and a count that no good step resets.
    """
    model, optimiser = tiny_model(SMALL), optax.adam(1e-2)
    step = make_train_step(model, Objective(), optimiser, 0.9, seed=5)
    images = np.asarray(jax.random.uniform(jax.random.key(0), (4, *SMALL.shape), minval=-1.0))
    bad = images.copy()
    bad[2, 3, 1, 0] = np.nan
    state, _ = step(init_state(model.params, optimiser), images, None)
    before = jax.tree.map(np.asarray, state)
    for row in (1, 2):
        state, metrics = step(state, bad, None)
        assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (row, row)
    assert int(state.step) == 3
    for name in ("params", "ema", "optimiser"):
        for a, b in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(before, name)), strict=True):
            np.testing.assert_array_equal(a, b)
    state, metrics = step(state, images, None)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    assert any(
        (np.asarray(a) != b).any()
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(before.params), strict=True)
    )


def test_the_parts_of_a_batch_add_up_to_it():
    # 1e-5 is rounding. Rejects a sum for the mean (four times the gradient), and parts with the same noise.
    optimiser, ends = optax.sgd(1e-2), []
    images = np.asarray(jax.random.uniform(jax.random.key(0), (8, *SMALL.shape), minval=-1.0))
    for parts in (1, 4):
        model = tiny_model(SMALL)
        step = make_train_step(model, Objective(), optimiser, 0.9, seed=5, accumulate=parts)
        state, metrics = step(init_state(model.params, optimiser), images, None)
        ends.append([metrics["loss"], metrics["gradient_norm"], *jax.tree.leaves(state.params)])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_bytes_and_floats_of_the_same_images_have_the_same_loss():
    pixels, losses = np.random.default_rng(0).integers(0, 256, (4, *SMALL.shape), np.uint8), []
    for images in (pixels, to_array(pixels)):
        state, step = _step_of(tiny_model(SMALL))
        losses.append(float(step(state, images, None)[1]["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # a division by 255 would give another loss


def test_each_decay_has_its_own_average():
    # The averages differ after the warm-up of decay 0.2, whose first step has 2 / 11. Rejects one decay for both.
    model, optimiser = tiny_model(SMALL), optax.sgd(1e-2)
    step = make_train_step(model, Objective(), optimiser, (0.2, 0.9), seed=5)
    images = np.asarray(jax.random.uniform(jax.random.key(0), (4, *SMALL.shape), minval=-1.0))
    state = init_state(model.params, optimiser, 2)
    expected = [jax.tree.map(np.asarray, ema) for ema in state.ema]
    for n in (1, 2, 3):
        state, _ = step(state, images, None)
        params = jax.tree.map(np.asarray, state.params)
        for i, decay in enumerate((0.2, 0.9)):
            d = min(decay, (1 + n) / (10 + n))
            expected[i] = jax.tree.map(lambda a, b, d=d: d * a + (1 - d) * b, expected[i], params)
    for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(tuple(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"), [("weighting", "snr"), ("times", "beta"), ("level_std", 0.0), ("gamma", -1.0)]
)
def test_an_objective_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}={value!r}: must be"):
        Objective(**{field: value})


COLLECTIVE = re.compile(r" = (.*) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_step_over_devices_communicates_parameters_and_no_images(fsdp):
    """No array that devices exchange is larger than the largest parameter. The batch's arrays are larger.

    Rejects a partitioner that gathers the batch, which gives the same numbers but is slow.
    """
    config = dataclasses.replace(SMALL, channels=48)
    model, mesh = tiny_model(config), train_mesh(fsdp)
    assert mesh.size == 4
    optimiser = optax.adam(1e-3)
    step = make_train_step(model, Objective(), optimiser, 0.9, 5, mesh=mesh)
    state = init_state(model.params, optimiser)
    state = place(state, state_shardings(state, mesh))
    images = place(np.zeros((128, *config.shape), np.uint8), images_sharding(mesh))
    program = str(step.lower(state, images, None).compile().as_text())
    sizes = [
        int(np.prod([int(n) for n in dims.split(",") if n]))
        for shapes in COLLECTIVE.findall(program)
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)
    ]
    largest = max(leaf.size for leaf in jax.tree.leaves(model.params))
    assert largest < 128 * 8 * 8 * 48 / 4
    assert max(sizes) == largest

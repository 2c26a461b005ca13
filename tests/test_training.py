"""The objective and the training step against what theory says of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sdejax as sj
from sdejax.model import Model, Parametrisation
from sdejax.nn.text import EMPTY, UNKNOWN
from sdejax.training import Objective, drop_text, init_state, make_train_step, score_matching_loss
from tests.tiny import CONFIG, VOCABULARY, tiny_model

SMALL = dataclasses.replace(CONFIG, words=0, attention=(), multipliers=(1,))


def test_noise_levels_are_log_normal_and_stratified(sde):
    """One level in each of n equally likely strata: Kolmogorov-Smirnov distance at most 1/n.

    Independent draws would be at about 0.9 / sqrt(n) = 0.056. Rejects sigma for tau (twice the spread), and a normal
    in the level itself.
    """
    objective, count = Objective(level_mean=-0.5, level_std=1.2), 256
    times = objective.sample_times(jax.random.key(3), sde, count)
    assert float(times.min()) >= 0.0
    assert float(times.max()) <= 1.0
    log_level = np.sort(0.5 * np.log(np.asarray(sde.tau(times), np.float64)))
    uniform = np.asarray(jax.scipy.stats.norm.cdf((log_level + 0.5) / 1.2))
    inside = (log_level > np.log(0.0101)) & (log_level < np.log(49.0))  # the process clips the far tails
    assert np.abs(uniform - (np.arange(count) + 0.5) / count)[inside].max() < 1.02 / count


def test_the_times_are_in_no_order():
    # Sorted strata would pair the cleanest noise with the first image of every batch.
    times = np.asarray(Objective().sample_times(jax.random.key(0), sj.VPSDE(), 128))
    assert abs(np.corrcoef(times, np.arange(128))[0, 1]) < 0.3


def test_edm_targets_have_unit_variance_at_every_level_and_process(sde):
    """For data of standard deviation data_std, E |target|^2 = 1, the loss of a network that outputs 0.

    Five standard errors of 2 * 8 * 8 * 3 * 64 values. Rejects c_out without data_std, and sigma for sigma / alpha.
    """
    parametrisation = Parametrisation("edm", "log_level", data_std=0.3)
    model = Model.create(SMALL, sde, parametrisation)
    images = 0.3 * jax.random.normal(jax.random.key(0), (128, *SMALL.shape))
    noise = jax.random.normal(jax.random.key(1), images.shape)
    loss = jax.jit(
        lambda params, times: score_matching_loss(
            model.graph, sde, parametrisation, params, times, noise, images, None, None
        )
    )
    for level in (0.05, 0.6, 20.0):
        losses = loss(model.params, jnp.full(128, sde.time(jnp.float32(level**2))))
        assert abs(float(losses.mean()) - 1.0) < 5 * np.sqrt(2.0 / images.size)


def test_hidden_words_and_captions_come_at_their_rates():
    # Five standard errors. Rejects word dropout that hits padding or the empty caption, and rates that are swapped.
    tokens = jnp.tile(jnp.asarray(VOCABULARY.encode(["green circle on a square"])), (4000, 1))
    dropped = np.asarray(drop_text(jax.random.key(0), tokens, Objective(caption_dropout=0.2, word_dropout=0.05)))
    empty = dropped[:, 0] == EMPTY
    assert abs(empty.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)
    assert (dropped[empty, 1:] == 0).all()
    words = dropped[~empty]
    assert abs((words == UNKNOWN).mean() - 0.05) < 5 * np.sqrt(0.05 * 0.95 / words.size)


def _step_of(model, learning_rate=1e-2, decay=0.9):
    optimiser = optax.sgd(learning_rate)
    step = make_train_step(model.graph, model.sde, model.parametrisation, Objective(), optimiser, decay, seed=5)
    return init_state(model.params, optimiser), step


def test_the_average_is_the_exponential_one_and_warms_up():
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
    for value, leaf in zip(expected, jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(leaf, value, rtol=1e-5, atol=1e-6)


def test_a_step_depends_on_its_number_and_nothing_else():
    # Random numbers come from (seed, step): a resumed run repeats them, the next step has others.
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

"""FlowEdit, CycleDiffusion and edit-friendly inversion, each against its own paper's loop, on the same draws."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.noise.brownian import BrownianPaths, clock
from sdejax.noise.keys import stream
from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.solvers.exponential import Exponential
from sdejax.solvers.problem import depth_of
from sdejax.solvers.sampler import Sampler

SHAPE, STEPS = (4, 4, 3), 12
KEYS = sj.keys(range(6))
IMAGE = jax.random.uniform(jax.random.key(0), (1, *SHAPE), minval=-1.0)


def mixture(sde, seed):
    means = jax.random.uniform(jax.random.key(seed), (3, *SHAPE), minval=-1.0)
    return sj.MixtureDenoiser(sde, jnp.ones(3), means, 0.4)


def draws(sde, times, stream_number=0):
    """The unit noises that the library draws for the steps from `times`: that of the start, then one a step."""
    paths = BrownianPaths(stream(stream(KEYS, 0), stream_number), SHAPE, depth_of(len(times)))
    s = clock(jnp.log(sde.tau(times)))
    evaluate = jax.jit(paths.evaluate)
    values = [evaluate(point) for point in s]
    noises = [(b - a) / jnp.sqrt(v - u) for a, b, u, v in zip(values, values[1:], s, s[1:], strict=False)]
    return [paths.start(), *noises]


@pytest.mark.slow
@pytest.mark.parametrize("redraws", [1, 3])
def test_flow_edit_is_the_papers_loop(redraws):
    """Kulikov et al. 2025, algorithm 1: an Euler step of the difference of two velocities.

    z = (1 - t) x + t e with e drawn afresh at every step, and x_edit <- x_edit + (t' - t) mean over the draws of
    [v_target(x_edit + z - x) - v_source(z)].
    """
    sde, strength = RectifiedFlow(), 0.7
    source, target = mixture(sde, 1), mixture(sde, 2)
    times = np.append(strength * (1.0 - np.arange(STEPS) / STEPS), 0.0).astype(np.float32)
    fresh = zip(*(draws(sde, times[:-1], number) for number in range(redraws)), strict=True)
    flow = jnp.broadcast_to(IMAGE, (6, *SHAPE))
    for t, after, noises in zip(times[:-1], times[1:], fresh, strict=True):
        slopes = []
        for noise in noises:
            z = (1.0 - t) * IMAGE + t * noise
            y = flow + z - IMAGE
            slopes.append((y - target(t, y)) / t - (z - source(t, z)) / t)
        flow = flow + (after - t) * sum(slopes) / redraws
    edited = sj.flow_edit(
        source, target, sde, IMAGE, KEYS, strength=strength, sampler=sj.Sampler(STEPS, "time"), redraws=redraws
    )
    # float32, and the path's values; noise kept from step to step, or one draw for all, is off by 0.1.
    np.testing.assert_allclose(edited, flow, atol=2e-3)


def ancestral(sde, t, after, x, signal):
    """The mean and the standard deviation of q(x_after | x_t = x, x0 = signal) (Ho et al. 2020, eq. 6 and 7)."""
    a, b = float(sde.alpha(t) / sde.alpha(after)), float(sde.alpha(after))
    kept, whole = float(sde.sigma(after)) ** 2, float(sde.sigma(t)) ** 2
    added = whole - a**2 * kept
    return (a * kept * x + b * added * signal) / whole, np.sqrt(kept * added / whole)


@pytest.mark.parametrize("sde", [VESDE(), RectifiedFlow()], ids=["VE", "RF"])
@pytest.mark.parametrize("method", ["cycle diffusion", "edit-friendly"])
def test_the_noises_of_the_images_path_move_the_targets_state(sde, method):
    """The two papers' loops: the noises are solved for along noisy images, then used with the target's denoiser.

    CycleDiffusion (Wu and De la Torre 2023, algorithm 1) draws each noisy image from the ancestral step's posterior
    given the one before and x0; edit-friendly inversion (Huberman-Spiegelglas et al. 2024, algorithm 1) draws each of
    them on its own. The last, noiseless image of the path is x0: what the source's last step misses is added as it is.

    2e-3 is float32 at noise level 9 to 25. Noises of the target's own, or a path drawn the other way, are off by 0.1.
    """
    source, target, strength = mixture(sde, 1), mixture(sde, 2), 0.8
    times = np.asarray(Sampler(STEPS, "log_snr").times(sde, jnp.float32(strength)))
    units = draws(sde, times)
    z = [sde.alpha(times[0]) * IMAGE + sde.sigma(times[0]) * units[0]]
    for t, after, unit in zip(times[:-1], times[1:], units[1:], strict=True):
        if method == "edit-friendly":
            z.append(sde.alpha(after) * IMAGE + sde.sigma(after) * unit)
        else:
            mean, spread = ancestral(sde, t, after, z[-1], IMAGE)
            z.append(mean + spread * unit)
    y = z[0]
    for number, (t, after) in enumerate(pairwise(times)):
        mean, spread = ancestral(sde, t, after, z[number], source(t, z[number]))
        noise = (z[number + 1] - mean) / spread
        mean, spread = ancestral(sde, t, after, y, target(t, y))
        y = mean + spread * noise
    result = target(times[-1], y) + IMAGE - source(times[-1], z[-1])
    edit = sj.cycle_diffusion if method == "cycle diffusion" else sj.edit_friendly_inversion
    np.testing.assert_allclose(
        edit(source, target, sde, IMAGE, KEYS, strength=strength, sampler=sj.Sampler(STEPS, "log_snr")),
        result,
        atol=2e-3,
    )


@pytest.mark.parametrize("sde", [RectifiedFlow()], ids=["RF"])
def test_cycle_diffusion_is_sync_sde_of_first_order(sde):
    """Where theory says so (eq. 14), to the last bit; the default, of second order, is another solution by 0.01."""
    source, target = mixture(sde, 1), mixture(sde, 2)
    cycle = sj.cycle_diffusion(source, target, sde, IMAGE, KEYS, strength=0.7, sampler=sj.Sampler(STEPS, "log_snr"))
    sync = sj.sync_sde(
        source, target, sde, IMAGE, KEYS, strength=0.7, sampler=Sampler(STEPS, "log_snr", solver=Exponential(1))
    )
    np.testing.assert_array_equal(cycle, sync)
    second = sj.sync_sde(source, target, sde, IMAGE, KEYS, strength=0.7, sampler=Sampler(STEPS, "log_snr"))
    assert np.abs(second - cycle).max() > 0.01

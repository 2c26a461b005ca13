"""`on_step`: what is watched is what is solved, step by step."""

import dataclasses
from collections.abc import Callable

import diffrax
import jax
import numpy as np
import pytest

import sdejax as sj
from tests.quick_keys import quick_keys

SHAPE = (2, 3, 3)
SDE = sj.RectifiedFlow()
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.uniform(-1.0, 1.0, (4, *SHAPE)).astype(np.float32)
MASK = RANDOM.choice(np.array([0.0, 0.02, 0.5, 1.0], np.float32), (4, *SHAPE))
STRENGTH = np.float32(0.7)
FIRST = sj.Sampler(4, solver=sj.Exponential(1))
LANGEVIN = sj.Sampler(4, solver=sj.Exponential(2, sj.Langevin()))
HEUN = sj.Sampler(12, solver=sj.Diffrax(diffrax.Heun()))
SOURCE, TARGET = sj.GaussianDenoiser(SDE, np.float32(-0.3), 0.5), sj.GaussianDenoiser(SDE, IMAGE[:1], 0.8)
PAIR = (SOURCE, TARGET, SDE, IMAGE)


@dataclasses.dataclass(frozen=True)
class Case:
    """A function of keys and `on_step`; the sampler that it takes, from where, how often, and whether with a mask."""

    run: Callable[..., jax.Array]
    sampler: sj.Sampler
    start: np.float32 = STRENGTH
    repeats: int = 1
    masked: bool = True


def of_sample(sampler):
    def run(keys, on_step=None):
        return sj.sample(TARGET, SDE, keys, SHAPE, sampler=sampler, on_step=on_step)

    return Case(run, dataclasses.replace(sampler, grid="edm"), np.float32(1.0), masked=False)


def of_sdedit(sampler):
    def run(keys, on_step=None):
        how = {"strength": STRENGTH, "mask": MASK, "repeats": 2, "sampler": sampler, "on_step": on_step}
        return sj.sdedit(TARGET, SDE, IMAGE, keys, **how)

    return Case(run, dataclasses.replace(sampler, grid="edm"), repeats=2)


def of_restore(sampler):
    def run(keys, on_step=None):
        how = {"strength": STRENGTH, "sampler": sampler, "on_step": on_step}
        return sj.restore(TARGET, SDE, IMAGE, keys, sj.Luminance(), **how)

    return Case(run, dataclasses.replace(sampler, grid="edm"), masked=False)


def of_two_prompts(editor, sampler=FIRST, **others):
    def run(keys, on_step=None):
        how = {"strength": STRENGTH, "mask": MASK, "sampler": sampler, "on_step": on_step, **others}
        return editor(*PAIR, keys, **how)

    return Case(run, dataclasses.replace(sampler, grid="log_snr"))


CASES = {
    "sample Langevin": of_sample(LANGEVIN),
    "sample Heun": of_sample(HEUN),
    "sdedit Exponential(1)": of_sdedit(FIRST),
    "sdedit Langevin": of_sdedit(LANGEVIN),
    "restore": of_restore(FIRST),
    "synchronous(2) Langevin": of_two_prompts(sj.sync_sde, LANGEVIN, coupling="synchronous(2)"),
    "independent Heun": of_two_prompts(sj.sync_sde, HEUN, coupling="independent"),
    "correlated Exponential(1)": of_two_prompts(sj.sync_sde, FIRST, coupling="correlated(0.5)"),
    "reflection Langevin": of_two_prompts(sj.sync_sde, LANGEVIN, coupling="reflection"),
    "flow_edit": of_two_prompts(sj.flow_edit, redraws=2),
    "cycle_diffusion": of_two_prompts(sj.cycle_diffusion),
    "edit_friendly_inversion": of_two_prompts(sj.edit_friendly_inversion),
    "ode_inversion": of_two_prompts(sj.ode_inversion),
    "fire_flow": of_two_prompts(sj.fire_flow),
    "rf_inversion": of_two_prompts(sj.rf_inversion),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_watched_solve_is_the_unwatched(name, compilations):
    case, keys, seen = CASES[name], quick_keys(4), []
    steps = case.repeats * case.sampler.steps
    results = []
    sj.compiler_options()  # asks XLA by a program of its own, once
    programs = compilations(lambda: results.append(case.run(keys)))
    # The whole solve is one program, and nothing of those that `on_step` needs. (diffrax runs some of its own.)
    assert programs == 1 or case.sampler.solver == HEUN.solver
    watched = case.run(keys, lambda step, t, expected: seen.append((step, t, np.asarray(expected))))
    # Float32. A step with another's noise, a memory or a corrector's stream that starts anew, a mask that the steps do
    # not know, and repeats on one path are off by 0.1.
    np.testing.assert_allclose(watched, results[0], rtol=1e-5, atol=1e-5)
    assert [step for step, _, _ in seen] == list(range(steps))
    grid = np.asarray(case.sampler.times(SDE, case.start))
    np.testing.assert_allclose([t for _, t, _ in seen], np.tile(grid, case.repeats), rtol=1e-5)
    if case.masked:  # what the mask keeps is the image in every D, to the last bit
        for _, _, expected in seen:
            np.testing.assert_array_equal(expected[MASK == 0.0], IMAGE[MASK == 0.0])
    stop, ended = steps - 2, []
    # All steps run the programs that are there now. The result is the D that was shown, to the last bit.
    assert compilations(lambda: ended.append(case.run(keys, lambda step, t, expected: step < stop))) == 0
    np.testing.assert_array_equal(ended[0], seen[stop][2])


def test_the_last_d_of_a_sample_is_the_sample():
    seen = []
    images = CASES["sample Langevin"].run(quick_keys(4), lambda step, t, expected: seen.append(expected))
    # To the last bit: the last step returns D. The D before the corrector's steps is off by 0.01.
    np.testing.assert_array_equal(seen[-1], images)


@pytest.mark.parametrize("name", ["sdedit Exponential(1)", "ode_inversion"])
def test_what_is_spread_over_devices_is_watched_there(name):
    case, mesh, seen = CASES[name], sj.image_mesh(jax.devices()[:4]), []

    def watch(step, t, expected):
        assert len(expected.sharding.device_set) == 4
        seen.append(step)

    watched = case.run(sj.spread(quick_keys(4), mesh), watch)
    assert seen == list(range(case.repeats * case.sampler.steps))
    assert len(watched.sharding.device_set) == 4
    # Float32; the keys or the images of another device are off by 0.1.
    np.testing.assert_allclose(watched, case.run(quick_keys(4)), atol=1e-5)

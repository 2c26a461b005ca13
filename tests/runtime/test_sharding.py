"""An image is its seed: alone, in a batch, on one device or on four, bit for bit, and without communication."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.edit.coupling import Synchronous
from sdejax.edit.pair import _edit
from sdejax.edit.sync_sde import _SyncSDE
from sdejax.runtime.sharding import mesh_of, over_images
from sdejax.sampling.sample import _sample
from sdejax.solvers.sampler import Sampler

SHAPE = (8, 8, 3)
KEYS = sj.keys(range(8))
SDE = sj.RectifiedFlow()
SAMPLER = Sampler(8, "log_snr")
IMAGES = jax.random.uniform(jax.random.key(0), (8, *SHAPE), minval=-1.0)
DATA = jax.random.uniform(jax.random.key(1), (5, *SHAPE), minval=-1.0)
SOURCE = sj.GaussianDenoiser(SDE, -0.2, 0.5)
COLLECTIVE = re.compile("all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")
DENOISERS = {
    "gaussian": sj.GaussianDenoiser(SDE, 0.3, 0.5),
    "mixture": sj.MixtureDenoiser(SDE, jnp.ones(5), DATA, 0.3),
    "dataset": sj.DatasetDenoiser(SDE, DATA),
}


def run(work, denoiser, keys, images):
    with sj.batch_invariant():
        if work == "sample":
            return sj.sample(denoiser, SDE, keys, SHAPE, sampler=SAMPLER)
        if work == "sdedit":
            return sj.sdedit(denoiser, SDE, images, keys, strength=0.6, sampler=SAMPLER)
        return sj.sync_sde(SOURCE, denoiser, SDE, images, keys, strength=0.6, sampler=SAMPLER)


@pytest.mark.parametrize(
    ("kind", "work"),
    [
        ("mixture", "sample"),
        ("mixture", "sdedit"),
        ("mixture", "sync_sde"),
        ("gaussian", "sdedit"),
        ("dataset", "sync_sde"),
    ],
)
def test_an_image_is_its_seed_alone_in_a_batch_and_on_four_devices(work, kind):
    denoiser = DENOISERS[kind]
    batch = np.asarray(run(work, denoiser, KEYS, IMAGES))
    # Bit for bit: noise of the batch's shape, a step or a norm over the batch would change image 5.
    np.testing.assert_array_equal(run(work, denoiser, KEYS[5:6], IMAGES[5:6])[0], batch[5])
    mesh = sj.image_mesh()
    assert mesh.size == 4
    spread = run(work, denoiser, sj.spread(KEYS, mesh), sj.spread(IMAGES, mesh))
    assert len(spread.sharding.device_set) == 4
    np.testing.assert_array_equal(spread, batch)
    assert np.ptp(batch, axis=0).max() > 0.1  # the seeds do matter


def test_the_spread_programs_have_no_collective():
    mesh = sj.image_mesh()
    keys, images = sj.spread(KEYS, mesh), sj.spread(IMAGES, mesh)
    layout = mesh_of(keys)
    denoiser = DENOISERS["mixture"]
    programs = [
        _sample.lower(denoiser, keys, SDE, SHAPE, SAMPLER),
        _edit.lower(
            _SyncSDE(SOURCE, denoiser), images, keys, jnp.ones_like(images), jnp.float32(0.6), 1, True, SDE, SAMPLER,
            Synchronous(),
        ),
    ]  # fmt: skip
    for program in programs:
        assert not COLLECTIVE.search(program.compile().as_text() or "")
    # The search finds one where there is one.
    total = over_images(lambda _, x: jax.lax.psum(x, "image"), layout, (), (images,))
    summed = jax.jit(lambda x: over_images(lambda _, x: jax.lax.psum(x, "image"), layout, (), (x,)))
    assert COLLECTIVE.search(summed.lower(images).compile().as_text() or "")
    assert total.shape == images.shape


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Towards:
    """A denoiser with a mean of its own for each image."""

    mean: sj.PerImage

    def __call__(self, t, x):
        return sj.GaussianDenoiser(SDE, self.mean.value, 0.5)(t, x)


def test_marked_leaves_are_split_along_with_the_images():
    denoiser = Towards(sj.PerImage(IMAGES))
    single = np.asarray(run("sample", denoiser, KEYS, IMAGES))
    mesh = sj.image_mesh()
    np.testing.assert_array_equal(run("sample", denoiser, sj.spread(KEYS, mesh), IMAGES), single)
    # Image 5 belongs to mean 5: split in another order, or not at all, another device's means meet its images.
    alone = run("sample", Towards(sj.PerImage(IMAGES[5:6])), KEYS[5:6], IMAGES[5:6])
    np.testing.assert_array_equal(alone[0], single[5])


def test_keys_on_one_device_need_no_layout():
    assert mesh_of(KEYS) is None
    assert mesh_of(sj.spread(KEYS, sj.image_mesh(jax.devices()[:1]))) is None

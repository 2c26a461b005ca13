"""Any number of images by one program: each depends on its seed alone, whatever fills the batches."""

import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdejax as sj
from sdejax.runtime.batches import DeviceClock, chunked, in_batches
from tests.tiny import tiny_model
from tests.train_run import free_port

MODEL = tiny_model()
SAMPLER = sj.Sampler(2, "edm")


@pytest.mark.slow
def test_images_are_those_of_their_seeds_and_prompts(compilations):
    seeds, prompts = [5, 0, 11, 2, 2, 7, 4, 3, 9], ["red heart", "blue heart", ""] * 3
    how = {"guidance": 2.0, "negative": "square"}
    found = list(sj.generate(MODEL, iter(seeds), prompt=iter(prompts), **how, sampler=SAMPLER, batch=1))
    assert [batch for batch, _ in found] == [seeds[:4], seeds[4:8], seeds[8:]]  # on four devices
    images = np.concatenate([images for _, images in found])

    def alone(negative):
        denoiser = MODEL.denoiser(prompts, 2.0, [negative] * len(seeds))
        return np.asarray(sj.sample(denoiser, MODEL.sde, sj.keys(seeds), MODEL.shape, sampler=SAMPLER))

    # float32 agrees to 1e-5 in the programs of tests. A neighbour's seed, prompt or place, or no negative, is off by
    # 0.05.
    np.testing.assert_allclose(images, alone("square"), atol=1e-5)
    assert np.abs(images - alone("")).max() > 0.05
    assert np.abs(images[3] - images[4]).max() > 0.05  # one seed with two prompts
    # The short batch compiles nothing.
    again = sj.generate(MODEL, range(7), prompt=["square"] * 7, **how, sampler=SAMPLER, batch=1)
    assert compilations(lambda: [images for _, images in again]) == 0


def test_the_mode_is_that_of_the_call_wherever_the_images_are_asked_for(compilations):
    """Rejects a mode that is looked up at each batch: a caller may have left the context by then."""

    def made(iterator):
        return np.concatenate([images for _, images in iterator])

    with sj.batch_invariant():
        four = sj.generate(MODEL, range(5), sampler=SAMPLER, batch=1)
        one = sj.generate(MODEL, range(5), sampler=SAMPLER, batch=1, devices=jax.devices()[1:2])
        again = sj.generate(MODEL, range(5), sampler=SAMPLER, batch=1)
    images = made(four)
    np.testing.assert_array_equal(made(one), images)  # one image on each device, whatever the devices
    assert compilations(lambda: made(again)) == 0
    fast = sj.generate(MODEL, range(5), sampler=SAMPLER, batch=1)
    assert compilations(lambda: made(fast)) > 0


# Compiled as users' programs are, not in the quick way of the tests.
ONE_EACH = """
import jax, numpy as np, sdejax as sj
from tests.tiny import tiny_model
model = tiny_model(parametrisation=sj.Parametrisation(sj.EDM(0.6), sj.LogLevelLabel()), scale=0.1)
how = {"prompt": "red heart", "sampler": sj.Sampler(steps=3)}
with sj.batch_invariant():
    made = [sj.generate(model, range(4), **how, batch=1, devices=jax.devices()[:n]) for n in (1, 2)]
found = [np.concatenate([images for _, images in one]) for one in made]
print(np.array_equal(*found), np.ptp(found[0], axis=0).max() > 0.1)
"""


@pytest.mark.slow
def test_one_image_on_each_device_has_the_bits_of_one_device():
    """Rejects a network's label that is computed for each image: XLA computes the logarithm of one number differently
    from that of several, and simplifies what is computed from one number differently for one device than for several.
    """
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "2"}
    run = subprocess.run([sys.executable, "-c", ONE_EACH], env=environment, check=True, capture_output=True)
    assert run.stdout.split() == [b"True"] * 2


# The share of a process, as a user's program computes it.
SHARE = """
import sys, jax, numpy as np, sdejax as sj
if int(sys.argv[3]) > 1:
    jax.distributed.initialize(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
seeds = range(12)[jax.process_index() :: jax.process_count()]
model, images = sj.load("checkpoints/emoji32"), np.zeros((2, 12, 32, 32, 3), np.float32)
few = {"prompt": "red heart", "guidance": 2.0, "sampler": sj.Sampler(steps=3)}
with sj.batch_invariant():
    for found, how in zip(images, (few, {"sampler": sj.Sampler(20)})):
        for made, batch in sj.generate(model, seeds, **how, batch=int(sys.argv[1])):
            found[np.asarray(made)] = batch
np.save(sys.argv[5], images)
"""


def images_of_processes(folder, count, devices, batch):
    """Twelve images by 3 guided steps and by 20 steps, float32, by `count` processes with so many devices each."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": str(devices)}
    words = [sys.executable, "-c", SHARE, str(batch), f"127.0.0.1:{free_port()}", str(count)]
    shares = [folder / f"{count}-{devices}-{batch}-{index}.npy" for index in range(count)]
    run = [subprocess.Popen([*words, str(index), share], env=environment) for index, share in enumerate(shares)]
    assert [process.wait(timeout=300) for process in run] == [0] * count
    return sum(np.load(share) for share in shares)


@pytest.mark.slow
def test_processes_and_devices_give_a_seed_the_same_floats(tmp_path):
    """The images of the trained model, in float32, on any devices and in any batch.

    Rejects another order of sums for another number of devices or threads, kernels chosen by the number of images, and
    labels computed for each image: each is an error of at least 1e-6, and of 4e-5 after 20 steps. Also rejects noise
    that depends on the place in the batch, an error of 1.
    """
    alone = images_of_processes(tmp_path, 1, 1, 2)
    assert np.ptp(alone, axis=1).max() > 0.5
    np.testing.assert_array_equal(images_of_processes(tmp_path, 1, 4, 2), alone)
    np.testing.assert_array_equal(images_of_processes(tmp_path, 2, 2, 2), alone)
    np.testing.assert_array_equal(images_of_processes(tmp_path, 1, 1, 1), alone)
    np.testing.assert_array_equal(images_of_processes(tmp_path, 2, 1, 5), alone)
    np.testing.assert_array_equal(images_of_processes(tmp_path, 1, 1, 32), alone)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"batch": 0}, "batch=0: "),
        ({"devices": []}, "devices=[]: "),
        ({"prompt": ["square"]}, "prompt: "),
        ({"seeds": [0, 1.5]}, "1.5: "),
        ({"seeds": [2**32]}, "4294967296"),
    ],
)
def test_a_wrong_argument_is_named(arguments, named):
    with pytest.raises(ValueError, match=re.escape(named)) as error:
        list(sj.generate(MODEL, **{"seeds": range(2)} | arguments, sampler=SAMPLER))
    assert "\n" not in str(error.value)


def test_the_devices_get_a_few_batches_in_advance():
    # Rejects waiting for each batch before the next one is given, and reading a job of millions at once.
    given, seen = [], []

    def chunks():
        for first in range(10):
            given.append(first)
            yield [first], jnp.asarray

    for items, _ in in_batches(chunks(), 1):
        seen.append(len(given) - items[0])
    assert max(seen) <= 4 and seen[0] >= 3


def test_the_batches_before_a_failure_are_delivered():
    def chunks():
        yield [1, 2], jnp.asarray
        yield [3], jnp.asarray
        raise KeyboardInterrupt

    found = in_batches(chunks(), 2)
    assert [(items, results.tolist()) for items, results in (next(found), next(found))] == [
        ([1, 2], [1, 2]),
        ([3], [3]),
    ]
    with pytest.raises(KeyboardInterrupt):
        next(found)


def test_the_clock_counts_each_second_of_work_once():
    # Two programs that were given at about the same time and ended one after the other; then a pause, then a third.
    clock, start = DeviceClock(), time.perf_counter()
    clock.finished(start - 2.0)
    clock.finished(start - 1.5)
    time.sleep(0.2)
    third = time.perf_counter()
    time.sleep(0.1)
    clock.finished(third)
    # Counting the overlap twice gives 3.6; counting the pause, 2.3.
    assert 2.09 < clock.busy < 2.2
    assert clock.since == start - 2.0


def test_chunks_have_their_size():
    assert list(chunked(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]

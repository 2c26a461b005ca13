"""A small program to keep in a folder, and functions that look into the folder."""

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import sdejax as sj
from sdejax.runtime.program_cache import keep_programs, kept_programs

SDE = sj.VPSDE()
SAMPLER = sj.Sampler(steps=2, stochasticity=0.0)  # an ODE: a Brownian path takes twice as long to compile
KEYS = sj.keys(range(8))  # drawn once here, because drawing them is a program, too


def draw(devices=None, mean=0.3, sampler=SAMPLER, batch=2, std=0.5):
    mesh = sj.image_mesh(devices or jax.devices()[:1])
    keys = sj.spread(KEYS[: batch * mesh.size], mesh)
    own = jax.device_put((mean, std), NamedSharding(mesh, P()))
    return np.asarray(sj.sample(sj.GaussianDenoiser(SDE, *own), SDE, keys, (3,), sampler=sampler))


def opened(cache, job=""):
    """The cache as a new process finds it, which has compiled nothing yet."""
    jax.clear_caches()
    keep_programs(str(cache), job)
    found = kept_programs()
    assert found is not None
    return found


def files(cache):
    return sorted(cache.glob("*/*.program"))

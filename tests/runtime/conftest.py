"""Caches that are a test's own."""

import jax
import pytest

from sdejax.runtime.program_cache import keep_programs


@pytest.fixture
def cache(tmp_path):
    """A cache of this test alone. jax forgets too: a program that it had from its own cache could not be written."""
    jax.clear_caches()
    yield tmp_path / "cache"
    keep_programs("none")


@pytest.fixture
def jax_caches_all():
    """jax's cache with the quickest programs too."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)

"""Caches for a single test."""

import jax
import pytest

from sdejax.runtime.program_cache import keep_programs


@pytest.fixture
def cache(tmp_path):
    """A folder for programs. jax also forgets its own, because programs from jax's cache are not written."""
    jax.clear_caches()
    yield tmp_path / "cache"
    keep_programs("none")


@pytest.fixture
def jax_caches_all():
    """Let jax's own cache keep all programs, even those that compile quickly."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 0.0)
    yield
    jax.config.update(name, before)

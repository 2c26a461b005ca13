"""Four devices on any machine, a counter of compilations, and the processes that every law is tested on."""

import os
from pathlib import Path

# The tests compile hundreds of small programs, and most of that time is LLVM unrolling loops that then run once. Level
# 1 leaves the program's meaning and halves the time; XLA_FLAGS=--xla_backend_optimization_level=3 tests the default.
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()

import jax
import pytest

from sdejax.sde import VESDE, VPSDE, RectifiedFlow, SubVPSDE

# Programs that several tests or workers compile are compiled once.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)

_compiled = []


def _listen(event, seconds, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_listen)


@pytest.fixture(params=[VPSDE(), VESDE(), SubVPSDE(), RectifiedFlow()], ids=["VP", "VE", "subVP", "RF"])
def sde(request):
    """The four processes with their default parameters."""
    return request.param


@pytest.fixture
def compilations():
    """A function that says how many programs XLA has compiled while a given function ran."""

    def count(function):
        before = len(_compiled)
        jax.block_until_ready(function())
        return len(_compiled) - before

    return count

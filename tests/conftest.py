"""Four devices on any machine, a counter of compilations, and the processes that every law is tested on."""

import gc
import os
import platform
from importlib.metadata import version
from pathlib import Path

# The tests compile hundreds of small programs that run once, so the compiler is told not to try hard: a third of the
# time. `make test` runs the laws about bits once more as users' programs are compiled, at level 3.
_PASSES = ["simplify-while-loops", "while-loop-invariant-code-motion", "while-loop-constant-sinking", "reshape-mover"]
_QUICK = ["--xla_backend_optimization_level=0", f"--xla_disable_hlo_passes={','.join(_PASSES)}"]
if platform.machine() in ("x86_64", "AMD64"):
    # Without optimisation LLVM fuses multiply and add in some loops and not in others, and equal programs of other
    # batch sizes round differently; before AVX2 there is nothing to fuse them with.
    _QUICK.append("--xla_cpu_max_isa=AVX")
if version("jax").startswith("0.10."):  # later versions do not know the flag, and stop at flags they do not know
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_QUICK]).strip()

os.environ["SDEJAX_CACHE"] = "none"  # what one test compiles must not hide another's faults

# Tracing makes many objects that live on, and looking for garbage among them was a twelfth of the time.
gc.set_threshold(100_000, 50, 100)

import jax
import pytest

from tests import shapes

shapes.install()  # before the library is imported

from sdejax.sde.rectified_flow import RectifiedFlow
from sdejax.sde.variance_exploding import VESDE
from sdejax.sde.variance_preserving import VPSDE, SubVPSDE

# Programs that several tests or workers compile are compiled once.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)

_LONGEST = [
    "test_train.py",
    "test_pods.py",
    "test_images.py",
    "test_edit_list.py",
    "test_sdedit.py",
    "test_evaluation.py",
]
_compiled = []


def _listen(event, seconds, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_listen)


def pytest_collection_modifyitems(items):
    """The longest files first (with --no-loadscope-reorder): at the end no worker then waits long for the other."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


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

"""When processes look for each other, and that none waits for ever."""

import subprocess
import sys
import time

import jax
import pytest

from sdejax.processes import Processes, start_processes


@pytest.fixture
def started(monkeypatch):
    """The arguments that `jax.distributed.initialize` was called with, in an environment that says nothing."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **_: calls.append(words))
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    return calls


ASK = (None, None, None)  # jax finds out by itself


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, []),  # a notebook within a Slurm job
        ({"SLURM_NTASKS": "4"}, []),  # the batch script itself, outside of srun
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, [ASK]),
        ({"TPU_WORKER_HOSTNAMES": "t0"}, []),  # one host
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, [ASK]),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "t0"}, [ASK]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [ASK]),
        (
            {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [("h:1", 2, 1)],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_the_environment_says_whether_there_are_others(started, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start_processes(Processes())
    assert started == expected


def test_options_come_before_the_environment(started, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    start_processes(Processes(start="never"))
    assert started == []
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    start_processes(Processes(coordinator="host:9", count=3, index=0))
    start_processes(Processes(coordinator="host:9", count=3))
    assert started == [("host:9", 3, 0), ("host:9", 3, 1)]


@pytest.mark.parametrize(
    "told",
    [
        {"coordinator": "host:9"},
        {"coordinator": "host:9", "count": 2},
        {"coordinator": "host:9", "count": 2, "index": 2},
        {"coordinator": "host", "count": 2, "index": 0},
    ],
    ids=str,
)
def test_half_of_what_is_needed_is_named(started, told):
    with pytest.raises(ValueError, match="must be host:port, and an index from 0"):
        start_processes(Processes(**told))
    assert started == []


WAIT = """
import time, jax
from sdejax.processes import time_limit
jax.process_count = lambda: 2  # as it would be beside another process
with time_limit({limit}, "a barrier"):
    time.sleep({wait})
time.sleep(2)
print("went on")
"""


def test_a_wait_ends_in_a_sentence():
    began = time.monotonic()
    command = [sys.executable, "-c", WAIT.format(limit=1, wait=60)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().endswith("waited 1 seconds for the others: a barrier")
    assert time.monotonic() - began < 30


def test_a_wait_that_ended_in_time_has_no_limit_any_more():
    # Rejects a timer that goes on running behind the body.
    command = [sys.executable, "-c", WAIT.format(limit=1, wait=0)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "went on\n"

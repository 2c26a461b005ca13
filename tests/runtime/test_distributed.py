"""Processes look for each other only if there are several, and none waits for ever."""

import importlib.util
import os
import subprocess
import sys
import time

import jax
import pytest

from sdejax.runtime.distributed import Processes, start_processes


@pytest.fixture
def started(monkeypatch):
    """The arguments that `jax.distributed.initialize` was called with, in an environment without other processes."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *words, **_: calls.append(words))
    for name in list(os.environ):
        if name.startswith(
            ("JAX_COORD", "JAX_NUM_PROC", "JAX_PROC", "SLURM", "TPU", "MEGASCALE", "OMPI", "KUBE", "JOB_")
        ):
            monkeypatch.delenv(name)
    return calls


ASK = (None, None, None)  # jax finds the processes by itself


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"SLURM_STEP_NODELIST": "n0", "SLURM_NTASKS": "1"}, []),  # a notebook within a Slurm job
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, []),  # the batch script itself, outside of srun
        ({"SLURM_STEP_NODELIST": "n[0-3]", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, [ASK]),
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
def test_the_environment_says_whether_there_are_other_processes(started, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    start_processes(Processes())
    assert started == expected


@pytest.mark.parametrize(
    ("platforms", "environment", "expected"),
    [
        ("tpu,cpu", {}, [ASK]),
        ("cpu", {}, []),  # a person who computes on the CPU of a TPU host
        ("tpu", {"TPU_SKIP_MDS_QUERY": "1"}, []),  # no chips, or no metadata server
        ("tpu,cpu", {"TPU_WORKER_HOSTNAMES": "t0"}, []),  # one host of GKE
    ],
)
def test_the_host_of_a_tpu_asks_for_others(started, monkeypatch, platforms, environment, expected):
    before = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    jax.config.update("jax_platforms", platforms)
    try:
        start_processes(Processes())
    finally:
        jax.config.update("jax_platforms", before)
    assert started == expected


@pytest.mark.parametrize(
    ("present", "environment", "expected"),
    [
        (True, {"JOB_COMPLETION_INDEX": "0"}, [ASK]),
        (False, {"JOB_COMPLETION_INDEX": "0"}, []),  # jax could not ask Kubernetes
        (True, {}, []),  # a pod without a Job, or of a Job that is not indexed
        (True, {"JOB_COMPLETION_INDEX": "0", "TPU_WORKER_HOSTNAMES": "t0"}, []),  # one host with TPUs
        (
            True,
            {"JAX_COORDINATOR_ADDRESS": "w-0:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            [("w-0:1", 2, 1)],
        ),
    ],
)
def test_an_indexed_job_needs_the_package_kubernetes(started, monkeypatch, present, environment, expected):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: present or None if name == "kubernetes" else found(name, *_)
    )
    for name, value in {"KUBERNETES_SERVICE_HOST": "10.0.0.1", **environment}.items():
        monkeypatch.setenv(name, value)
    start_processes(Processes())
    assert started == expected


def test_options_come_before_the_environment(started, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[0-3]")
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
def test_incomplete_options_are_named(started, told):
    with pytest.raises(ValueError, match="must be host:port"):
        start_processes(Processes(**told))
    assert started == []


WAIT = """
import time, jax
from sdejax.runtime.distributed import time_limit
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


def test_the_limit_ends_with_the_wait():
    # Rejects a timer that runs on after the body.
    command = [sys.executable, "-c", WAIT.format(limit=1, wait=0)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "went on\n"

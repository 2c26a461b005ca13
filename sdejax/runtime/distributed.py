"""Several processes as one run: their start, and a limit on every wait of one for the others."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Literal

import jax

from sdejax.runtime.aborts import PeersGone, aborts_explained

_GONE = {
    False: "another process of this run is gone; the same command goes on from what is written",
    True: "process 0, which coordinates the others, is gone, unless jaxlib says otherwise above; "
    "the same command goes on from what is written",
}


@dataclasses.dataclass(frozen=True)
class Processes:
    """How the processes of a run find each other.

    On a TPU pod, under Slurm, under Open MPI, and in an indexed Job of Kubernetes whose image has the package
    kubernetes, nothing need be said. Elsewhere every process is told the coordinator (which is process 0), their
    number, and its own index, here or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """

    start: Literal["auto", "always", "never"] = "auto"
    """"auto" looks for signs of several processes in the environment; "always" asks jax to find them out; "never" looks
    nowhere, and joins others only where a `coordinator` is given here.
    """
    coordinator: str = ""
    """host:port of process 0."""
    count: int = 0
    """How many processes there are."""
    index: int = -1
    """Which of them this is, from 0."""
    timeout: int = 300
    """Seconds, at least 1, that a process waits for the others before it stops."""


def start_processes(
    processes: Processes,
    independent: bool = False,
    names: tuple[str, str, str] = ("coordinator", "count", "index"),
) -> None:
    """Join the other processes of the run, where there are any. Call it before jax has touched a device.

    Where one does not come within the limit, the others end in a sentence that says which, with exit code 1.
    `independent` processes live on where another ends; the others end with it, and with their coordinator all do.
    `names` are what the person calls the three that every process may be told.

    **Raises:** `ValueError` where what is known of them is not enough, `PeersGone` where they do not find each other.
    """
    found = "" if processes.start == "never" else os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    coordinator = processes.coordinator or found
    count = processes.count or _number("JAX_NUM_PROCESSES", 0)
    index = processes.index if processes.index >= 0 else _number("JAX_PROCESS_ID", -1)
    if processes.timeout < 1:
        raise ValueError(f"timeout={processes.timeout}: must be at least 1 second")
    if coordinator and not (re.fullmatch(r".+:\d+", coordinator) and 0 <= index < count):
        given = ", ".join(f"{name}={value!r}" for name, value in zip(names, (coordinator, count, index), strict=True))
        raise ValueError(f"{given}: must be host:port, how many processes there are, and which this is, from 0")
    if not coordinator and (processes.count or processes.index >= 0):
        told = f"{names[1]}={processes.count}, {names[2]}={processes.index}"
        raise ValueError(f"{told}: need {names[0]}, the host:port of process 0")
    if not coordinator and (processes.start == "never" or (processes.start == "auto" and not _several())):
        return
    explicit = (coordinator, count, index) if coordinator else (None, None, None)
    if coordinator and index == 0:
        _check_port(coordinator, names[0])
    if independent:
        jax.config.update("jax_enable_recoverability", True)
        # CPU devices would be joined by Gloo, which none of them needs, and which speaks on standard output.
        jax.config.update("jax_cpu_collectives_implementation", None)
        # It would take a scheduler's signal to stop, for a barrier of all at some later step.
        jax.config.update("jax_enable_preemption_service", False)
    try:
        with (
            aborts_explained(processes.timeout, _GONE[independent]),
            _registered_within(processes.timeout),
            _ended_by_ctrl_c(),
        ):
            jax.distributed.initialize(
                *explicit,
                # What ends the wait is the coordinator's limit, which knows who is missing.
                initialization_timeout=processes.timeout + 10,
                heartbeat_timeout_seconds=(
                    silence_within(processes.timeout) if independent else max(10, processes.timeout)
                ),
                shutdown_timeout_seconds=processes.timeout,
            )
    except Exception as error:  # jaxlib has several kinds
        raise PeersGone(f"{names[0]}={coordinator!r}: the processes did not find each other ({error})") from None


def silence_within(seconds: int) -> int:
    """Seconds without a sign of life after which an independent process is taken for gone: the limit, from 10 to 60."""
    return max(10, min(60, seconds))


@contextlib.contextmanager
def _registered_within(seconds: int) -> Iterator[None]:
    """Give the coordinator a limit for the others to come, which `jax.distributed.initialize` has no argument for."""
    from jax._src.lib import _jax

    make = getattr(_jax, "get_distributed_runtime_service", None)
    if make is None:  # another version of jax: its own limit says less
        yield
        return
    _jax.get_distributed_runtime_service = functools.partial(make, cluster_register_timeout=seconds)
    try:
        yield
    finally:
        _jax.get_distributed_runtime_service = make


def _check_port(coordinator: str, name: str) -> None:
    """**Raises:** `ValueError` where another program listens there: jaxlib would crash, or share the port with it."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{name}={coordinator!r}: process 0 cannot listen there ({error})") from None


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Python would look at a Ctrl-C only when jaxlib returns, minutes later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: must be a whole number") from None


def _several() -> bool:
    """Whether the environment speaks of several processes that jax can ask about."""
    environment = os.environ
    return (
        len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
        or len(environment.get("TPU_PROCESS_ADDRESSES", "").split(",")) > 1
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        # The batch script has SLURM_PROCID and SLURM_NTASKS, too; only what srun starts is in a step.
        or ("SLURM_STEP_NODELIST" in environment and _number("SLURM_NTASKS", 1) > 1)
        or _number("OMPI_COMM_WORLD_SIZE", 1) > 1
        or _tpu_machine()
        or _indexed_job()
    )


def _tpu_machine() -> bool:
    """A TPU host made by gcloud, where only the metadata server knows of the others, and jax asks it.

    On import jax chooses the platform tpu where it finds chips, and forbids asking (TPU_SKIP_MDS_QUERY) where it finds
    none. GKE names the hosts in the environment, be it one. A host without others becomes a run of one process.
    """
    told = ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    platforms = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
    return "tpu" in platforms and not any(name in os.environ for name in told)


def _indexed_job() -> bool:
    """A pod of an indexed Job without TPUs, alone or in a JobSet, with the package that jax asks Kubernetes by.

    Without the package jax could learn nothing, and the pods would be taken for runs of their own.
    """
    environment = os.environ
    return (
        "KUBERNETES_SERVICE_HOST" in environment
        and "JOB_COMPLETION_INDEX" in environment
        and "TPU_WORKER_HOSTNAMES" not in environment
        and importlib.util.find_spec("kubernetes") is not None
    )


@contextlib.contextmanager
def time_limit(seconds: int, what: str) -> Iterator[None]:
    """End this process, in one sentence, where the body waits longer than `seconds` for the other processes.

    A collective or a barrier cannot be called off from outside, so nothing less would end the wait. A single process
    waits for nobody and has no limit.
    """
    if jax.process_count() == 1:
        yield
        return

    def stop() -> None:
        text = f"error: process {jax.process_index()} waited {seconds} seconds for the others: {what}"
        print(text, file=sys.stderr, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

"""Several processes as one run: how they start, and a limit on every wait of one process for the others."""

import contextlib
import dataclasses
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

from sdejax.runtime import jax_private
from sdejax.runtime.errors import PeersGone

_PEER_GONE = "another process of this run is gone; the same command continues from what is written"
_COORDINATOR_GONE = (
    "process 0, which coordinates the others, is gone, unless jaxlib gives another reason above; the same command "
    "continues from what is written"
)


@dataclasses.dataclass(frozen=True)
class Processes:
    """How the processes of a run find each other.

    The defaults suffice on a TPU pod, under Slurm, under Open MPI, and in an indexed Job of Kubernetes if its image has
    the package kubernetes. Elsewhere each process must be told the coordinator (which is process 0), the number of
    processes and its own index, either here or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """

    start: Literal["auto", "always", "never"] = "auto"
    """"auto" looks for signs of several processes in the environment; "always" lets jax find them; "never" ignores the
    environment, and joins other processes only if a `coordinator` is given here.
    """
    coordinator: str = ""
    """host:port of process 0."""
    count: int = 0
    """How many processes there are."""
    index: int = -1
    """The index of this process, from 0."""
    timeout: int = 300
    """Seconds, at least 1, that a process waits for the others before it stops."""


def start_processes(
    processes: Processes,
    independent: bool = False,
    names: tuple[str, str, str] = ("coordinator", "count", "index"),
) -> None:
    """Join the other processes of the run, if there are any. Call it before jax has touched a device.

    If a process does not come within the limit, the others print which one and exit with code 1.

    **Arguments:**

    - `independent`: if True, the processes live on when another one ends. If False, they end with it. If their
      coordinator ends, all of them do.
    - `names`: what the person calls the three fields that every process may be told.

    **Raises:** `ValueError` if the three fields do not suffice, `PeersGone` if the processes do not find each other.
    """
    if processes.timeout < 1:
        raise ValueError(f"timeout={processes.timeout}: must be at least 1 second")
    coordinator, count, index = _given(processes, names)
    if not coordinator and (processes.start == "never" or (processes.start == "auto" and not _several())):
        return
    if coordinator and index == 0:
        _check_port(coordinator, names[0])
    if independent:
        _make_independent(names[1], count)
    try:
        with (
            jax_private.explained_aborts(processes.timeout, _COORDINATOR_GONE if independent else _PEER_GONE),
            jax_private.registration_limit(processes.timeout),
            _ended_by_ctrl_c(),
        ):
            jax.distributed.initialize(
                *((coordinator, count, index) if coordinator else (None, None, None)),
                # Longer than the coordinator's limit, which ends the wait because it knows who is missing.
                initialization_timeout=processes.timeout + 10,
                heartbeat_timeout_seconds=(
                    heartbeat_limit(processes.timeout) if independent else max(10, processes.timeout)
                ),
                shutdown_timeout_seconds=processes.timeout,
            )
    except Exception as error:  # jaxlib raises several kinds
        raise PeersGone(f"{names[0]}={coordinator!r}: the processes did not find each other ({error})") from None


def _given(processes: Processes, names: tuple[str, str, str]) -> tuple[str, int, int]:
    """The coordinator, the number of processes and the index, from the options or else from the environment.

    The coordinator is "" if neither names one.

    **Raises:** `ValueError` if they contradict each other or one is missing.
    """
    found = "" if processes.start == "never" else os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    coordinator = processes.coordinator or found
    count = processes.count or _number("JAX_NUM_PROCESSES", 0)
    index = processes.index if processes.index >= 0 else _number("JAX_PROCESS_ID", -1)
    if coordinator and not (re.fullmatch(r".+:\d+", coordinator) and 0 <= index < count):
        given = ", ".join(f"{name}={value!r}" for name, value in zip(names, (coordinator, count, index), strict=True))
        raise ValueError(f"{given}: must be host:port, the number of processes, and the index of this one, from 0")
    if not coordinator and (processes.count or processes.index >= 0):
        given = f"{names[1]}={processes.count}, {names[2]}={processes.index}"
        raise ValueError(f"{given}: need {names[0]}, the host:port of process 0")
    return coordinator, count, index


def _make_independent(name: str, count: int) -> None:
    """Let the processes live on when another one ends.

    **Raises:** `ValueError`, in which their number is called `name`, if this version of jax does not let them talk.
    """
    try:
        jax_private.check_connections()
    except jax_private.Missing as missing:
        given = f"{name}={count}" if count else name
        raise ValueError(
            f"{given}: must be 1 with jax {jax.__version__}: it does not have {missing}, by which processes share a "
            "job; start commands that have seeds of their own instead"
        ) from None
    jax_private.update_setting("jax_enable_recoverability", True)
    # Gloo would connect the CPU devices of the processes. No program needs that, and Gloo writes to standard output.
    jax_private.update_setting("jax_cpu_collectives_implementation", None)
    # This service would catch a scheduler's signal to stop, and wait for a barrier of all processes at a later step.
    jax_private.update_setting("jax_enable_preemption_service", False)


def heartbeat_limit(seconds: int) -> int:
    """After how many seconds without a sign of life an independent process is considered gone: from 10 to 60."""
    return max(10, min(60, seconds))


def _check_port(coordinator: str, name: str) -> None:
    """**Raises:** `ValueError` if another program listens there: jaxlib would crash, or share the port with it."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"{name}={coordinator!r}: process 0 cannot listen there ({error})") from None


@contextlib.contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Let a Ctrl-C end the process in the body. Python would notice it only when jaxlib returns, minutes later."""
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
    """Whether the environment tells of several processes that jax can find."""
    environment = os.environ
    return (
        len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1
        or len(environment.get("TPU_PROCESS_ADDRESSES", "").split(",")) > 1
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        # The batch script has SLURM_PROCID and SLURM_NTASKS, too. Only what srun starts is in a step.
        or ("SLURM_STEP_NODELIST" in environment and _number("SLURM_NTASKS", 1) > 1)
        or _number("OMPI_COMM_WORLD_SIZE", 1) > 1
        or _is_tpu_host()
        or _in_indexed_job()
    )


def _is_tpu_host() -> bool:
    """Whether this is a TPU host made by gcloud. Only the metadata server knows the other hosts, and jax asks it.

    When jax is imported it selects the platform tpu if it finds chips, and sets TPU_SKIP_MDS_QUERY if it finds none.
    GKE names the hosts in the environment, even if there is only one. A host without others becomes a run of one
    process.
    """
    known = ("TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
    platforms = jax.config.jax_platforms or ""  # type: ignore[attr-defined]
    return "tpu" in platforms and not any(name in os.environ for name in known)


def _in_indexed_job() -> bool:
    """Whether this is a pod of an indexed Job of Kubernetes without TPUs, alone or in a JobSet, that jax can ask about.

    jax asks by the package kubernetes. Without it each pod becomes a run of its own.
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
    """Limit how long the body, which is called `what`, waits for the other processes.

    After `seconds` the process prints one sentence and ends, because nothing else can end a wait in a collective or a
    barrier. A single process waits for nobody and has no limit.
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

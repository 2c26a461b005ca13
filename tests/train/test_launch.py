"""The launch recipes: the local one runs for real, the others are checked as far as a machine without a cluster can."""

import copy
import functools
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.train_run import ROOT

LAUNCH = ROOT / "train" / "launch"
SCRIPTS = [LAUNCH / name for name in ("local.sh", "tpu_pod.sh", "slurm.sbatch")]
MANIFESTS = [LAUNCH / name for name in ("gke_tpu.yaml", "gke_gpu.yaml")]


def _run(command, **environment):
    environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def _program(folder, name, text):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_shell(path):
    done = _run(["bash", "-n", path])
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"  # sbatch reads its file, the others are started


@pytest.mark.parametrize("path", [*SCRIPTS, *MANIFESTS], ids=lambda path: path.name)
def test_a_recipe_shows_both_kinds_of_run_and_how_they_go_on(path):
    text = path.read_text().replace(", ", " ")  # a list of words in YAML, a command elsewhere
    assert "train configs/folder64.py" in text
    assert re.search(r"sample \S*snapshot --seeds 0-49999999 --out \S", text)
    assert "go on" in text or "goes on" in text
    assert max(map(len, path.read_text().splitlines())) <= 125


# The local script


def _local(count, text, **environment):
    return _run([LAUNCH / "local.sh", count, "sh", "-c", text], **environment)


def test_processes_are_told_apart_and_their_output_too():
    said = 'echo "$JAX_COORDINATOR_ADDRESS $JAX_PROCESS_ID/$JAX_NUM_PROCESSES gpu $JAX_LOCAL_DEVICE_IDS"; echo bad >&2'
    done = _local(3, said)
    assert done.returncode == 0
    first = re.fullmatch(r"(127\.0\.0\.1:\d+) 0/3 gpu 0\n", done.stdout)  # process 0 alone: what a machine may read
    assert first
    others = [f"[{i}] {line}" for i in (1, 2) for line in (f"{first[1]} {i}/3 gpu {i}", "bad")]
    assert sorted(done.stderr.splitlines()) == sorted(["bad", *others])


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_all_with_its_code(failing):
    began = time.monotonic()
    done = _local(2, f"[ $JAX_PROCESS_ID = {failing} ] && exit 7; exec sleep 60")
    assert done.returncode == 7
    assert f"process {failing} ended with exit code 7" in done.stderr
    assert time.monotonic() - began < 30


def test_one_that_does_not_hear_is_killed():
    began = time.monotonic()
    done = _local(2, "[ $JAX_PROCESS_ID = 1 ] && exit 7; trap '' TERM; sleep 60; echo never", LAUNCH_GRACE=1)
    assert (done.returncode, done.stdout) == (7, "")
    assert time.monotonic() - began < 30  # with its child: nothing holds the output open


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_the_end_waited_for(number, tmp_path):
    # Each takes its time to end. Rejects a script that leaves at once, and a second signal, which `trap -` shows.
    text = (
        "trap 'trap - INT TERM; sleep 0.5; echo stopped; exit 130' INT TERM; echo ready; while :; do sleep 0.05; done"
    )
    command = [str(LAUNCH / "local.sh"), "2", "sh", "-c", text]
    with open(tmp_path / "out", "w+") as out, open(tmp_path / "said", "w+") as said:
        # A shell starts what runs in the background with Ctrl-C ignored, and bash can then not trap it.
        restore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=out, stderr=said, preexec_fn=restore)  # noqa: PLW1509
        _wait_for(lambda: (tmp_path / "out").read_text() + (tmp_path / "said").read_text() == "ready\n[1] ready\n")
        process.send_signal(number)
        assert process.wait(timeout=30) == 130
    assert (tmp_path / "out").read_text() == "ready\nstopped\n"
    assert (tmp_path / "said").read_text() == "[1] ready\n[1] stopped\n"


@pytest.mark.parametrize("words", [[], ["2"], ["0", "true"], ["two", "true"]])
def test_what_is_no_number_of_processes_is_refused(words):
    done = _run([LAUNCH / "local.sh", *words])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage:")


JOIN = """
import jax
from sdejax.runtime.distributed import Processes, start_processes
start_processes(Processes())
print(jax.process_index(), jax.process_count(), jax.device_count())
"""


def test_processes_find_each_other():
    """By what the environment says, which every verb reads. training/test_train.py trains with two like this."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": 1, "PYTHONPATH": ROOT}
    done = _run([LAUNCH / "local.sh", 2, sys.executable, "-c", JOIN], **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("0 2 2\n")
    assert "[1] 1 2 2\n" in done.stderr


# A TPU pod: what gcloud is asked for, and the lines for the hosts run here


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """Run tpu_pod.sh where gcloud writes down what it is asked, and ssh runs the line in a folder of its own."""
    _program(
        tmp_path,
        "gcloud",
        f'printf "%s\\n" "$*" >>{tmp_path}/asked\n'
        f"cd {tmp_path} && export HOME={tmp_path}\n"
        'for word; do [[ $word == --command=* ]] && bash -c "${word#--command=}"; done',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def run(*words):
        done = _run([LAUNCH / "tpu_pod.sh", *words], TPU="pod", ZONE="here")
        asked = tmp_path / "asked"
        return done, asked.read_text() if asked.exists() else ""

    return run


def test_a_command_reaches_the_hosts_as_it_was_written(pod, tmp_path):
    done, asked = pod("each", "printf", "%s|", "a b", "it's", "$HOME", "*", "")
    assert done.stdout == "a b|it's|$HOME|*||"
    assert asked.startswith("compute tpus tpu-vm ssh pod --zone=here --worker=all --command=")
    assert "--worker=0" in pod("first", "true")[1]


def test_a_run_on_a_pod_outlives_the_connection_and_is_stopped_in_order(pod, tmp_path):
    log = tmp_path / "sdejax" / "run.log"
    pod("start", "bash", "-c", "trap 'echo in order; exit' TERM; echo here; while :; do sleep 0.05; done")
    _wait_for(lambda: log.exists() and log.read_text() == "here\n")
    pod("stop")
    _wait_for(lambda: log.read_text() == "here\nin order\n")


def _wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pod_is_made_and_given_back(pod):
    _, asked = pod("create", "v5litepod-16", "v2-alpha-tpuv5-lite", "--spot")
    made = "create pod --zone=here --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot"
    assert asked == f"compute tpus tpu-vm {made}\n"
    _, asked = pod("delete")
    assert asked.endswith("compute tpus tpu-vm delete pod --zone=here\n")


@pytest.mark.parametrize("words", [[], ["create"], ["sing"]])
def test_a_pod_that_is_asked_for_something_else_says_what_there_is(pod, words):
    done, asked = pod(*words)
    assert (done.returncode, asked) == (2, "")
    assert done.stderr.startswith("usage:")


# Slurm


def test_slurm_starts_a_task_for_each_gpu_and_hands_the_command_on(tmp_path):
    _program(tmp_path, "srun", 'printf "%s\\n" "$@"')
    path = LAUNCH / "slurm.sbatch"
    done = _run(["bash", path, "sdejax", "a b"], PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_CPUS_PER_TASK=8)
    assert done.stdout.splitlines() == ["--cpus-per-task=8", "--kill-on-bad-exit=1", "--label", "sdejax", "a b"]
    lines = path.read_text().splitlines()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", path.read_text(), re.MULTILINE))
    assert len(options) == sum(line.startswith("#SBATCH") for line in lines)
    # jax's task I of a node takes GPU I of those that it sees: as many of them, and all to be seen.
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert not {"gpus-per-task", "gpu-bind", "ntasks"} & set(options)
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first for i, line in enumerate(lines) if line.startswith("#SBATCH"))  # sbatch reads no further


# GKE: the part of JobSet's, Job's and Pod's fields that the manifests use. A name ending in ! must be there.

_ANY = {"*": str}
_CONTAINER = {
    "name!": str, "image!": str, "command!": [str], "args": [str], "resources!": {"limits!": {"*": int}},
    "env": [{"name!": str, "value": str, "valueFrom": {"fieldRef!": {"fieldPath!": str}}}],
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}  # fmt: skip
_POD = {
    "restartPolicy!": str, "serviceAccountName": str, "terminationGracePeriodSeconds": int, "nodeSelector": _ANY,
    "containers!": [_CONTAINER], "volumes": [{"name!": str, "persistentVolumeClaim!": {"claimName!": str}}],
}  # fmt: skip
_JOB = {
    "parallelism!": int, "completions!": int, "completionMode!": str, "backoffLimit!": int,
    "podFailurePolicy": {
        "rules!": [
            {"action!": str, "onExitCodes": {"containerName": str, "operator!": str, "values!": [int]}},
        ],
    },
    "template!": {"spec!": _POD},
}  # fmt: skip
_JOBSET = {
    "apiVersion!": str, "kind!": str, "metadata!": {"name!": str, "annotations": _ANY},
    "spec!": {
        "failurePolicy": {
            "maxRestarts": int, "rules": [{"name!": str, "action!": str, "onJobFailureReasons": [str]}],
        },
        "replicatedJobs!": [{"name!": str, "replicas": int, "template!": {"spec!": _JOB}}],
    },
}  # fmt: skip


def _misfits(value, shape, path=""):
    """What of a manifest is not of the shape: unknown names, missing ones, other types."""
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return [f"{path}: must be a list"]
        return [text for i, item in enumerate(value) for text in _misfits(item, shape[0], f"{path}[{i}]")]
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [f"{path}: must have names"]
        known = {name.rstrip("!"): inner for name, inner in shape.items()}
        found = [f"{path}.{name[:-1]}: is missing" for name in shape if name.endswith("!") and name[:-1] not in value]
        for name, inner in value.items():
            if name not in known and "*" not in known:
                found.append(f"{path}.{name}: is unknown")
            else:
                found += _misfits(inner, known.get(name, known.get("*")), f"{path}.{name}")
        return found
    return [] if type(value) is shape else [f"{path}: must be {shape.__name__}"]


def _complaints(manifest):
    """Why a JobSet would be refused, or start as something else than one run."""
    found = _misfits(manifest, _JOBSET)
    if found:
        return found
    if (manifest["apiVersion"], manifest["kind"]) != ("jobset.x-k8s.io/v1alpha2", "JobSet"):
        found.append("is no JobSet")
    jobset, [group] = manifest["metadata"]["name"], manifest["spec"]["replicatedJobs"]
    job, pod = group["template"]["spec"], group["template"]["spec"]["template"]["spec"]
    [container], selector = pod["containers"], pod["nodeSelector"]
    environment = {entry["name"]: entry for entry in container.get("env", [])}
    [(resource, chips)] = container["resources"]["limits"].items()
    if job["parallelism"] != job["completions"]:
        found.append("parallelism and completions differ: the pods would not run together")
    if job["completionMode"] != "Indexed":
        found.append("completionMode: without Indexed a pod has no number")
    if pod["restartPolicy"] != "Never" or job["backoffLimit"] != 0:
        found.append("a pod would start anew by itself")
    [lost], [given_up] = job["podFailurePolicy"]["rules"], manifest["spec"]["failurePolicy"]["rules"]
    ends = lost == {
        "action": "FailJob",
        "onExitCodes": {"containerName": container["name"], "operator": "In", "values": [2]},
    } and (given_up["action"], given_up["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    if not ends:
        found.append("bad input would be tried again")
    if resource == "google.com/tpu":
        topology, accelerator = "cloud.google.com/gke-tpu-topology", "cloud.google.com/gke-tpu-accelerator"
        if not {topology, accelerator} <= set(selector):
            found.append("nodeSelector: GKE needs the accelerator and the topology of TPUs")
        else:
            sides = [int(side) for side in selector[topology].split("x")]
            if job["parallelism"] * chips != sides[0] * sides[1] * (sides[2] if sides[2:] else 1):
                found.append("the pods do not have the chips of the topology")
    elif resource == "nvidia.com/gpu":
        if group["replicas"] != 1:
            found.append("replicas: the processes are numbered within one job")
        if environment["JAX_NUM_PROCESSES"]["value"] != str(job["parallelism"]):
            found.append("JAX_NUM_PROCESSES: differs from parallelism")
        host, _, port = environment["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
        if host != f"{jobset}-{group['name']}-0-0.{jobset}" or not port.isdigit():
            found.append("JAX_COORDINATOR_ADDRESS: is not pod 0")
        path = environment["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
        if path != "metadata.annotations['batch.kubernetes.io/job-completion-index']":
            found.append("JAX_PROCESS_ID: is not the pod's number")
    else:
        found.append(f"{resource}: is no accelerator")
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    if {mount["name"] for mount in container.get("volumeMounts", [])} != volumes:
        found.append("volumes and volumeMounts differ")
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_a_jobset_that_makes_one_run(path):
    assert _complaints(yaml.safe_load(path.read_text())) == []
    if "gpu" not in path.name:
        return
    manifest = yaml.safe_load(path.read_text())  # what the pods are told is what sdejax reads
    container = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    source = "".join((ROOT / "sdejax" / name).read_text() for name in ("runtime/distributed.py", "commands/start.py"))
    assert all(f'"{entry["name"]}"' in source for entry in container["env"])


_SPEC = ("spec", "replicatedJobs", 0, "template", "spec")
_IN_POD = (*_SPEC, "template", "spec")
_BOX = (*_IN_POD, "containers", 0)


@pytest.mark.parametrize(
    ("name", "at", "value", "named"),
    [
        ("gke_tpu", ("apiVersion",), "jobset.x-k8s.io/v1", "is no JobSet"),
        ("gke_tpu", ("metadata", "name"), None, "name: is missing"),
        ("gke_tpu", (*_SPEC, "completions"), 3, "parallelism and completions"),
        ("gke_tpu", (*_SPEC, "completion"), 4, "completion: is unknown"),
        ("gke_tpu", (*_SPEC, "parallelism"), "4", "parallelism: must be int"),
        ("gke_tpu", (*_SPEC, "completionMode"), "NonIndexed", "completionMode"),
        ("gke_tpu", (*_SPEC, "backoffLimit"), 6, "start anew"),
        ("gke_tpu", (*_SPEC, "podFailurePolicy", "rules", 0, "onExitCodes", "values"), [1], "tried again"),
        ("gke_gpu", (*_BOX, "name"), "other", "tried again"),
        ("gke_tpu", (*_IN_POD, "nodeSelector", "cloud.google.com/gke-tpu-topology"), "4x8", "chips of the topology"),
        ("gke_tpu", (*_IN_POD, "nodeSelector", "cloud.google.com/gke-tpu-topology"), None, "nodeSelector"),
        ("gke_tpu", (*_IN_POD, "volumes", 0, "name"), "other", "volumeMounts"),
        ("gke_tpu", (*_BOX, "resources", "limits"), {"tpu": 4}, "is no accelerator"),
        ("gke_tpu", (*_BOX, "command"), None, "command: is missing"),
        ("gke_tpu", (*_BOX, "args"), "train", "args: must be a list"),
        ("gke_gpu", ("spec", "replicatedJobs", 0, "replicas"), 4, "replicas"),
        ("gke_gpu", ("spec", "replicatedJobs", 0, "name"), "workers", "is not pod 0"),
        ("gke_gpu", (*_BOX, "env", 1, "value"), "8", "differs from parallelism"),
        ("gke_gpu", (*_BOX, "env", 1, "value"), 4, "value: must be str"),  # Kubernetes refuses a number here
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, tuple) else None,
)
def test_mistakes_in_a_manifest_are_noticed(name, at, value, named):
    manifest = copy.deepcopy(yaml.safe_load((LAUNCH / f"{name}.yaml").read_text()))
    place = manifest
    for step in at[:-1]:
        place = place[step]
    if value is None:
        del place[at[-1]]
    else:
        place[at[-1]] = value
    assert any(named in text for text in _complaints(manifest))

"""Whole training runs as a person starts them, each in processes of its own, on fake devices."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EMOJI = ROOT / "tests" / "emoji"
CONFIG = """
from sdejax.training.config import Config, OptimiserConfig
from sdejax.nn.ncsnpp.config import NCSNppConfig

def get_config():
    network = NCSNppConfig(shape=(8, 8, 3), channels=48, multipliers=(1,), blocks=1, attention=(), text_width=8)
    return Config(name="tiny", data={data!r}, captions=True, out={out!r}, network=network, batch=8, steps=20,
                  optimiser=OptimiserConfig(learning_rate=1e-3, warmup=5), flip=True, log_every=1,
                  validate_every=100, sample_every=0, checkpoint_every=5)
"""


def write_config(folder: Path, name: str, data: Path = EMOJI) -> Path:
    """A config whose run is in `folder`/`name`."""
    path = folder / f"{name}.py"
    path.write_text(CONFIG.format(data=str(data), out=str(folder / name)))
    return path


def on_fake_devices(devices: int, command: list[str]) -> subprocess.Popen:
    """A process of its own on so many fake devices; what several of them compile is compiled once."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        "SDEJAX_CACHE": str(ROOT / ".pytest_cache" / "programs"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start(config: Path, *words: str, devices: int = 1, processes: int = 1) -> subprocess.Popen:
    """`sdejax train` on so many fake devices, in so many processes as the local launch recipe starts them."""
    launch = [str(ROOT / "train" / "launch" / "local.sh"), str(processes)] if processes > 1 else []
    return on_fake_devices(devices, [*launch, sys.executable, "-m", "train", str(config), *words])


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """What it said on standard error; its exit code must be `code`."""
    out, said = process.communicate(timeout=300)
    assert process.returncode == code, f"{process.returncode}: {out}\n{said}"
    return said


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in rows(folder) if "loss" in row}


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]

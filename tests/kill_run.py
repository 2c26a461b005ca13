"""Kills `sdejax` with -9 at random moments, so many times, then lets it finish: python -m tests.kill_run TIMES WORD ...

Each run is a child of this process, which has the libraries imported and so starts quickly; it is killed some time
after it has begun to write. Prints how many runs were killed, and exits with the code of the last one.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import diffrax  # noqa: F401
import flax.nnx  # noqa: F401
import jax  # noqa: F401

import sdejax.commands.sample
import sdejax.produce  # noqa: F401
from sdejax.cli import main


def start(words: list[str]) -> int:
    child = os.fork()
    if child == 0:
        os._exit(main(words))
    return child


def killed_while_writing(child: int, out: Path, draw: random.Random) -> bool:
    """Kill it within 0.4 seconds from when it begins to write images; whether it lived until then."""

    def images() -> set[str]:
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
        return {name for name in names if ".tar" in name or ".png" in name}

    before = images()
    while images() <= before:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    time.sleep(0.4 * draw.random() ** 2)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    times, words = int(sys.argv[1]), sys.argv[2:]
    out, draw = Path(words[words.index("--out") + 1]), random.Random(0)
    print(sum(killed_while_writing(start(words), out, draw) for _ in range(times)), flush=True)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(start(words), 0)[1]))

"""Kills `sdejax` with -9 at random moments, so many times, then lets it finish: TIMES COUNT WORD ...

A run is COUNT processes that share the work, children of this one, which has the libraries imported, so that they start
quickly. A third of the runs are killed as they start, the others after they have begun to write; of two processes one
is killed before the other. Prints how many runs were killed, and exits with 1 where a process of the last one failed.
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

from sdejax.commands.main import main
from tests.train_run import free_port


def start(words: list[str], count: int) -> list[int]:
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(count)] if count > 1 else []
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            os._exit(main([*words, *shared, *(["--process-id", str(index)] if shared else [])]))
        children.append(child)
    return children


def killed(children: list[int], out: Path, draw: random.Random) -> bool:
    """Kill them all; whether they lived until then."""

    def images() -> set[str]:
        names = {path.name for path in out.iterdir()} if out.is_dir() else set()
        return {name for name in names if ".tar" in name or ".png" in name}

    if draw.random() < 1 / 3:
        time.sleep(draw.random())
    else:
        before = images()
        while images() <= before:
            if os.waitpid(children[0], os.WNOHANG)[0]:
                for child in children[1:]:
                    os.waitpid(child, 0)
                return False
            time.sleep(0.002)
        time.sleep(0.4 * draw.random() ** 2)
    draw.shuffle(children)
    ended = []
    for child in children:
        os.kill(child, signal.SIGKILL)
        ended.append(os.waitpid(child, 0)[1])
        time.sleep(0.2 * draw.random() ** 2 * (child != children[-1]))
    return all(map(os.WIFSIGNALED, ended))


if __name__ == "__main__":
    times, count, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    out, draw = Path(words[words.index("--out") + 1]), random.Random(0)
    print(sum(killed(start(words, count), out, draw) for _ in range(times)), flush=True)
    sys.exit(max(os.waitpid(child, 0)[1] for child in start(words, count)) > 0)

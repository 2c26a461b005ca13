"""The table of docs/pods.md: what `sdejax plan` says of the configs on TPU slices. Nothing here is measured.

    python -m benchmarks.plans benchmarks/results/plans.jsonl

plans what is not in that file yet (JSON lines, a plan each; an hour or two on two cores) and prints the table.
"""

import json
import subprocess
import sys
from pathlib import Path

from sdejax.runtime.hardware import GIB

# (config, topology, images for each chip, fsdp in training or None in generation)
PLANS = [
    ("emoji64", "v5e:4x4", 64, None),
    ("emoji64", "v5p:2x2x4", 64, None),
    ("emoji64", "v5e:4x4", 32, 4),
    ("folder256", "v5e:16x16", 16, None),
    ("folder256", "v6e:8x8", 8, None),
    ("celebahq256_ve", "v5e:4x4", 1, None),
    ("folder256", "v5p:4x4x4", 4, 4),
    ("folder256", "v5e:16x16", 4, 4),
    ("celebahq256_ve", "v5p:4x4x4", 4, None),
    ("celebahq256_ve", "v6e:8x8", 4, 4),
]


def _row(config: str, topology: str, images: int, fsdp: int | None) -> dict:
    chips = 1
    for size in topology.partition(":")[2].split("x"):
        chips *= int(size)
    words = ["plan", f"configs/{config}.py", "--topology", topology, "--batch", str(images * chips)]
    words += ["--train", "--fsdp", str(fsdp)] if fsdp else []
    line = [sys.executable, "-m", "sdejax", *words, "--quick", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    said = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip().splitlines()[-1]}
    return {"config": config, "topology": topology, "images": images, "fsdp": fsdp, "command": " ".join(words), **said}


def _line(row: dict) -> str:
    what = f"training, fsdp {row['fsdp']}" if row["fsdp"] else "generation"
    head = f"| {row['config']} | {what} | {row['topology']} | {row['images']} | "
    if "error" in row:
        return head + row["error"].removeprefix("error: ") + " | | | | | |"
    moved = ", ".join(f"{n['count']} {kind}" for kind, n in sorted(row["collectives"].items())) or "none"
    size = sum(n["bytes"] for n in row["collectives"].values()) / GIB
    memory = f"{row['memory_total'] / GIB:.2f} of {row['memory_capacity'] / GIB:.0f}"
    return head + (
        f"{memory} | {row['flops'] / 1e12:.1f} | {row['bytes_accessed'] / 1e9:.0f} | "
        f"{moved}{f', {size:.2f} GiB' if size else ''} | {row['compute_seconds']:.3g}, {row['memory_seconds']:.3g} | "
        f"{row['batch'] / row['compute_seconds']:.0f} |"
    )


def main(path: str) -> None:
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = {tuple(row[key] for key in ("config", "topology", "images", "fsdp")): row for row in map(json.loads, lines)}
    for asked in PLANS:
        if asked not in rows:
            rows[asked] = _row(*asked)
            with file.open("a") as out:
                out.write(json.dumps(rows[asked]) + "\n")
    print("| config | program | chips | images a chip | memory, GiB | TFLOPs | GB accessed | collectives | ", end="")
    print("seconds at peak: arithmetic, traffic | images/s at most |\n|" + "---|" * 10)
    for asked in sorted(PLANS, key=lambda asked: (asked[0], asked[3] or 0, asked[1])):
        print(_line(rows[asked]))


if __name__ == "__main__":
    main(sys.argv[1])

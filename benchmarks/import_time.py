"""`import sdejax` against `import jax`, each in fresh processes, alternating: `python -m benchmarks.import_time`."""

import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    """Wall time of a fresh interpreter that runs `code`."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds("import sdejax"), seconds("import jax"), seconds("pass")) for _ in range(9)]
    ours, jax, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"import sdejax {ours:.3f} s, import jax {jax:.3f} s, bare interpreter {bare:.3f} s")
    print(f"sdejax / jax {statistics.median(a / b for a, b, _ in pairs):.2f} (medians of pairs)")
    code = "import sdejax, sys; b = sys.modules.get('jax._src.xla_bridge'); print(bool(b and b._backends))"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    print(f"a backend is initialised: {said}")


if __name__ == "__main__":
    main()

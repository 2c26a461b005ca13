"""Peak memory of this process on Linux. (`ru_maxrss` would count what the process that started it held by then.)"""

from pathlib import Path


def mebibytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

"""The ranges of the numbers in a configuration."""

import math


def check_range(config: object, *names: str, least: float, most: float = math.inf) -> None:
    """Check fields of a dataclass.

    **Raises:** `ValueError` for the first field that is not a finite number from `least` to `most`.
    """
    for name in names:
        value = getattr(config, name)
        if not least <= value <= most or not math.isfinite(value):
            allowed = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
            raise ValueError(f"{name}={value}: must be {allowed}")

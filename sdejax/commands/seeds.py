"""`--seeds`: from text such as 0-3,8 to numbers."""

import re

from sdejax.jobs.ranges import NumberRange, total_size

_MOST = 1_000_000  # edits of one picture; a job lists all of them when it begins


def seed_ranges(text: str) -> list[NumberRange]:
    """The ranges that "7", "0-63" or "0-3,8" names, in the same order.

    **Raises:** `ValueError` for any other text, and for seeds of 2^32 and more.
    """
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,20})\s*(?:-\s*(\d{1,20})\s*)?", part)
        seeds = NumberRange(int(match[1]), int(match[2] or match[1])) if match else NumberRange(0, -1)
        if seeds.first > seeds.last or seeds.last >= 2**32:
            raise ValueError(f"--seeds={text!r}: must be seeds from 0 to {2**32 - 1}, such as 7, 0-63 or 0-3,8")
        ranges.append(seeds)
    return ranges


def parse_seeds(text: str) -> list[int]:
    """The seeds that "7", "0-63" or "0-3,8" names, in the same order.

    **Raises:** `ValueError` for any other text, and for more than a million seeds.
    """
    ranges = seed_ranges(text)
    if total_size(ranges) > _MOST:
        raise ValueError(f"--seeds={text!r}: must be at most {_MOST:,} seeds here; sample takes any number")
    return [seed for seeds in ranges for seed in seeds.numbers]


def edit_seeds(text: str, manifest: str | None) -> list[int]:
    """The seeds of an edit, each once. With a list of edits (`manifest`) there must be one seed.

    **Raises:** `ValueError` if there are several with a list, and as `parse_seeds` does.
    """
    if manifest is not None and total_size(seed_ranges(text)) > 1:
        raise ValueError(f"--seeds={text!r}: must be one seed with --manifest, whose lines may have their own")
    return list(dict.fromkeys(parse_seeds(text)))

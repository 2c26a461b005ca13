"""306 text edits of emoji with known true results, chosen by a fixed rule.

Many emoji differ only in one attribute, and their names state it. So the drawing that has the target's name is the true
result of an edit. The rule does not depend on anyone's choice:

1. Each ordered pair of names that differ in one attribute is an edit. `attributes` lists the attributes; each is a
   family. A pair of equal drawings is not an edit.
2. The pairs of a family are sorted by the SHA-256 of "source -> target": in one list if the target was held out of the
   training, and in another list if it was not.
3. 153 edits of each of the two kinds are dealt. The families take turns in alphabetical order, and each gives its next
   pair. A family without pairs left is skipped. So the edits are spread as evenly as the names allow.

The names are those of `python -m train.emoji`, which also defines the held-out names.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from itertools import permutations
from pathlib import Path

import numpy as np

from sdejax.evaluation.edits import EditCase
from sdejax.media.images import fit, open_image, to_array

COUNT = 306
_COLOURS = "red|orange|yellow|green|light blue|blue|purple|brown|black|white|pink|grey"
_TONE = re.compile(r"(?:medium-light|medium-dark|light|medium|dark) skin tone")
_HAIR = re.compile(r"(?<=[:,] )(?:blond hair|red hair|curly hair|white hair|bald|beard)$")
_GENDER = re.compile(r"\b(?:(man|woman|person)|(men|women|people)|(boy|girl|child))\b")
_HOUR = re.compile(r"\w+(?: o.clock|-thirty)")
_COLOUR = re.compile(rf"(?:{_COLOURS})(?= )")
_MOON = re.compile(
    r"(?:new|waxing crescent|first quarter|waxing gibbous|full|waning gibbous|last quarter|waning crescent)"
)
_DIRECTION = re.compile(r"\b(?:(?:up|down)(?:-left|-right)?|left|right)\b")
_POINTING = re.compile(r"\barrow$|\bpointing\b|\bpointed\b|-facing fist|\btilted\b")
_SIZE = re.compile(r"\b(?:large|medium-small|medium|small)\b")


def attributes(name: str) -> Iterator[tuple[str, str]]:
    """The attributes of a name.

    **Returns:** pairs of a family and the name without that attribute. If two names have a pair in common, they differ
    only in that attribute.
    """
    if len(_TONE.findall(name)) == 1:
        yield "skin tone", _TONE.sub("TONE", name)
    if _HAIR.search(name):
        yield "hair", _HAIR.sub("HAIR", name)
    if len(found := _GENDER.findall(name)) == 1:
        age = ("ADULT", "ADULTS", "CHILD")[next(i for i, word in enumerate(found[0]) if word)]
        yield "gender", _GENDER.sub(age, name)
    if _HOUR.fullmatch(name):
        yield "clock hour", "HOUR"
    if match := re.fullmatch(rf"(?:{_COLOURS}) (heart|circle|square)", name):
        yield f"colour of a {match[1]}", match[1]
    elif _COLOUR.match(name):
        yield "colour of another thing", _COLOUR.sub("COLOUR", name, count=1)
    elif match := re.fullmatch(rf"(large|small) (?:{_COLOURS}) diamond", name):
        yield "colour of another thing", f"{match[1]} COLOUR diamond"
    if re.fullmatch(rf"{_MOON.pattern} moon(?: face)?", name):
        yield "moon phase", _MOON.sub("PHASE", name, count=1)
    if _POINTING.search(name.split(":")[0]) and len(_DIRECTION.findall(name)) == 1:
        yield "direction", _DIRECTION.sub("WAY", name)
    if len(_SIZE.findall(name)) == 1 and re.search(r"\b(?:square|diamond|cloud)$", name):
        yield "size", _SIZE.sub("SIZE", name)


def choose_edits(
    drawings: Mapping[str, np.ndarray], held_out: Set[str], count: int = COUNT
) -> list[tuple[str, str, str]]:
    """Choose the edits of the benchmark by the rule above.

    **Arguments:**

    - `drawings`: the drawing of each name.
    - `held_out`: the names that were held out of the training.
    - `count`: the number of edits. Half of their targets are held out.

    **Returns:** (family, source, target) for each edit, sorted.

    **Raises:** `ValueError` if the names do not give enough edits.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in drawings:
        for key in attributes(name):
            groups[key].append(name)
    pairs_of: dict[bool, dict[str, list[tuple[str, str]]]] = {True: defaultdict(list), False: defaultdict(list)}
    for (family, _), members in groups.items():
        for source, target in permutations(members, 2):
            if not np.array_equal(drawings[source], drawings[target]):
                pairs_of[target in held_out][family].append((source, target))
    chosen: list[tuple[str, str, str]] = []
    for unseen, wanted in ((True, count // 2), (False, count - count // 2)):
        dealt = _deal({family: sorted(pairs, key=_hash) for family, pairs in pairs_of[unseen].items()}, wanted)
        if len(dealt) < wanted:
            kind = "was held out" if unseen else "was trained on"
            raise ValueError(f"data: its names give {len(dealt)} edits whose target {kind}; must be at least {wanted}")
        chosen += dealt
    return sorted(chosen)


def _hash(pair: tuple[str, str]) -> str:
    return hashlib.sha256(f"{pair[0]} -> {pair[1]}".encode()).hexdigest()


def _deal(pairs_of: Mapping[str, list[tuple[str, str]]], wanted: int) -> list[tuple[str, str, str]]:
    """Take a pair from each family in turn, round after round, until there are `wanted` pairs or none is left."""
    dealt = []
    for turn in range(max(map(len, pairs_of.values()), default=0)):
        dealt += [(family, *pairs_of[family][turn]) for family in sorted(pairs_of) if turn < len(pairs_of[family])]
    return dealt[:wanted]


def read_emoji(folder: str | Path, shape: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Read the folder that `python -m train.emoji` writes.

    **Returns:** the drawing (h, w, c) in [-1, 1] of each name, and the held-out names.

    **Raises:** `ValueError` if the folder cannot be read.
    """
    images: dict[str, np.ndarray] = {}
    held_out: set[str] = set()
    for part in ("train", "heldout"):
        captions = Path(folder) / part / "captions.jsonl"
        try:
            rows = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
            files = {row["caption"]: captions.parent / row["file"] for row in rows}
        except (OSError, KeyError, TypeError, json.JSONDecodeError):
            raise ValueError(
                f"data={str(folder)!r}: {part}/captions.jsonl cannot be read; `python -m train.emoji` writes the folder"
            ) from None
        for name, file in files.items():
            picture = fit(open_image(file, shape[2]), shape[1], shape[0])
            images[name] = to_array(picture).reshape(shape)
        if part == "heldout":
            held_out = set(files)
    return images, held_out


def emoji_edits(images: Mapping[str, np.ndarray], held_out: Set[str], count: int = COUNT) -> list[EditCase]:
    """Make the edits of the benchmark; the prompts are the names."""
    return [
        EditCase(
            f"{source} -> {target}",
            images[source],
            source,
            target,
            truth=images[target],
            family=family,
            unseen=target in held_out,
        )
        for family, source, target in choose_edits(images, held_out, count)
    ]

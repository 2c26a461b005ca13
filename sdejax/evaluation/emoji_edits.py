"""306 text edits of emoji whose true results are known, chosen by a fixed rule.

Many emoji differ in one attribute alone, which their names say, so the drawing of the target's name is the true result
of an edit. The rule, which nobody's eye has a part in:

1. Every ordered pair of names that differ in one attribute is an edit; `attributes` is the list of them, and an
   attribute is a family. A pair whose two drawings are equal is no edit.
2. The pairs of a family are put in the order of the SHA-256 of "source -> target", once those whose target was held out
   of the training and once the others.
3. 153 edits of either kind are dealt: the families take turns, in alphabetical order, each giving its next pair, until
   there are enough. A family that has run out is passed over, so the edits are spread as evenly as the names allow.

The names are those of `python -m train.emoji`, which also says which are held out.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from itertools import permutations
from pathlib import Path

import numpy as np

from sdejax.evaluation.edits import Edit
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
    """(family, the name without that attribute): two names with an answer in common differ in that attribute alone."""
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


def choose_edits(names: Mapping[str, np.ndarray], held_out: Set[str], count: int = COUNT) -> list[tuple[str, str, str]]:
    """The benchmark's (family, source, target), by the rule above, half of them with a target of `held_out`.

    `names` are all names with their drawings.

    **Raises:** `ValueError` where the names do not give so many edits.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        for key in attributes(name):
            groups[key].append(name)
    decks: dict[bool, dict[str, list[tuple[str, str]]]] = {True: defaultdict(list), False: defaultdict(list)}
    for (family, _), members in groups.items():
        for source, target in permutations(members, 2):
            if not np.array_equal(names[source], names[target]):
                decks[target in held_out][family].append((source, target))
    chosen: list[tuple[str, str, str]] = []
    for unseen, wanted in ((True, count // 2), (False, count - count // 2)):
        dealt = _deal({family: sorted(pairs, key=_hash) for family, pairs in decks[unseen].items()}, wanted)
        if len(dealt) < wanted:
            kind = "training never saw" if unseen else "training saw"
            raise ValueError(f"data: its names give {len(dealt)} edits whose target {kind}; {wanted} are needed")
        chosen += dealt
    return sorted(chosen)


def _hash(pair: tuple[str, str]) -> str:
    return hashlib.sha256(f"{pair[0]} -> {pair[1]}".encode()).hexdigest()


def _deal(decks: Mapping[str, list[tuple[str, str]]], wanted: int) -> list[tuple[str, str, str]]:
    """One pair of each family after the other, round after round, until there are so many or no more."""
    dealt = []
    for turn in range(max(map(len, decks.values()), default=0)):
        dealt += [(family, *decks[family][turn]) for family in sorted(decks) if turn < len(decks[family])]
    return dealt[:wanted]


def read_emoji(folder: str | Path, shape: tuple[int, int, int]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Every emoji by its name, (h, w, c) in [-1, 1], and the names that are held out; `folder` is train.emoji's.

    **Raises:** `ValueError` where it cannot be read.
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


def emoji_edits(images: Mapping[str, np.ndarray], held_out: Set[str], count: int = COUNT) -> list[Edit]:
    """The edits themselves, their names as prompts."""
    return [
        Edit(
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

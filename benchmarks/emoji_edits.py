"""Text edits with known true results, by sync-SDE: `python -m benchmarks.emoji_edits [SNAPSHOT] [--data FOLDER]`.

72 edits (source image, source name, target name), 18 in each of four families whose emoji differ in one attribute:
skin tone, colour of a heart, colour of a circle or square, hour of a clock. All ordered pairs of a family are sorted by
the SHA-256 of "source -> target" and the first 18 are taken, so nobody picked them. The true result is the target's own
drawing. FOLDER is what `python -m train.emoji FOLDER` wrote.

Reported, images in [-1, 1]: L1 to the true result, its value for the unedited source, and the share of edits whose
nearest of all emoji (in L2) is the true one; also for the edits whose target the model never saw.
"""

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import numpy as np

import sdejax as sj
from sdejax.images import contact_sheet, open_image, save_png, to_array, to_image
from train.validation import quiet_denoiser

_PER_FAMILY = 18
_COLOURS = "red|orange|yellow|green|light blue|blue|purple|brown|black|white|pink|grey"
_TONES = ("light skin tone", "medium-light skin tone", "medium skin tone", "medium-dark skin tone", "dark skin tone")


@dataclasses.dataclass(frozen=True)
class Edit:
    """One edit by names; `family` is the attribute that changes."""

    family: str
    source: str
    target: str


def family_of(name: str) -> Iterator[tuple[str, str]]:
    """The family of a name and what its members share: names with the same answer make edits."""
    if match := re.fullmatch(rf"(?:{_COLOURS}) (heart|circle|square)", name):
        yield "heart" if match[1] == "heart" else "circle or square", match[1]
    if re.fullmatch(r"\w+ o.clock|\w+-thirty", name):
        yield "clock", "clock"
    tones = [tone for tone in _TONES if re.search(rf"(?:: |, ){tone}(?:,|$)", name)]
    if len(tones) == 1 and name.count("skin tone") == 1:
        yield "skin tone", name.replace(tones[0], "TONE")


def choose_edits(names: list[str], per_family: int = _PER_FAMILY) -> list[Edit]:
    """The first `per_family` edits of each family, in the order of their hashes."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        for key in family_of(name):
            groups[key].append(name)
    edits: dict[str, list[Edit]] = defaultdict(list)
    for (family, _), members in groups.items():
        edits[family].extend(Edit(family, a, b) for a, b in permutations(members, 2))
    chosen = []
    for family in sorted(edits):
        by_hash = sorted(
            edits[family], key=lambda edit: hashlib.sha256(f"{edit.source} -> {edit.target}".encode()).hexdigest()
        )
        chosen += by_hash[:per_family]
    return chosen


def read_emoji(folder: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """Every emoji's image in [-1, 1] by name, and the names of the held-out ones."""
    images, held_out = {}, set()
    for part in ("train", "heldout"):
        for line in (folder / part / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            images[row["caption"]] = to_array(open_image(folder / part / row["file"]))
            if part == "heldout":
                held_out.add(row["caption"])
    return images, held_out


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Text edits with known true results, by sync-SDE."""

    snapshot: str = "checkpoints/emoji32"
    data: str = "data/emoji32"
    level: float = 10.0
    """The noise level sigma / alpha that the edits start from."""
    steps: int = 30
    order: int = 2
    stochasticity: float = 1.0
    coupling: str = "synchronous"
    seed: int = 0
    sheet: str = ""
    """A PNG to write: source, result and true result of every edit."""


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments)
    model = sj.load(arguments.snapshot)
    images, held_out = read_emoji(Path(arguments.data))
    edits = choose_edits(list(images))
    source = np.stack([images[edit.source] for edit in edits])
    truth = np.stack([images[edit.target] for edit in edits])
    strength = float(model.sde.time(arguments.level**2))
    order = 1 if arguments.order == 1 else 2
    result = np.asarray(
        sj.sync_sde(
            quiet_denoiser(model, [edit.source for edit in edits]),
            quiet_denoiser(model, [edit.target for edit in edits]),
            model.sde,
            source,
            sj.keys(range(arguments.seed * len(edits), (arguments.seed + 1) * len(edits))),
            strength=strength,
            sampler=sj.Sampler(arguments.steps, solver=sj.Exponential(order), stochasticity=arguments.stochasticity),
            coupling=arguments.coupling,
        )
    )
    result = np.clip(result, -1.0, 1.0)
    everything, names = np.stack(list(images.values())), list(images)
    distance = np.stack([np.square(everything - image).sum((1, 2, 3)) for image in result])
    nearest = [names[i] for i in distance.argmin(1)]
    right = np.array([name == edit.target for name, edit in zip(nearest, edits, strict=True)])
    l1 = np.abs(result - truth).mean((1, 2, 3))
    unedited = np.abs(source - truth).mean((1, 2, 3))
    groups = {"all": np.ones(len(edits), bool)}
    groups |= {family: np.array([e.family == family for e in edits]) for family in sorted({e.family for e in edits})}
    groups["target never seen"] = np.array([e.target in held_out for e in edits])
    groups["target seen"] = ~groups["target never seen"]
    print(f"{'':20} edits   L1 to truth   unedited   nearest is true")
    for name, group in groups.items():
        if group.any():
            row = f"{l1[group].mean():11.4f} {unedited[group].mean():10.3f} {right[group].mean():15.0%}"
            print(f"{name:20} {group.sum():5} {row}")
    if arguments.sheet:
        triples = np.stack([source, result, truth], 1).reshape(-1, *model.shape)
        save_png(Path(arguments.sheet), contact_sheet([to_image(image) for image in triples], columns=24, scale=1))


if __name__ == "__main__":
    main()

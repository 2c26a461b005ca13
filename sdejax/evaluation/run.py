"""The run of a benchmark: methods at all strengths, guidances and seeds over a set of edits, each result scored.

A setting is a method at one strength, one guidance and one seed. Its row has a score for each edit. A row is written as
soon as it is computed, and a run that is started again continues after the last row. The image of an edit depends only
on the edit's name and the seed, not on its batch or on the other edits. Strength and guidance are traced. So one
compiled program serves the settings of a method, and a second one those with guidance 1. Guidance 1 is the prompt
alone, which saves the unconditional evaluation.
"""

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from sdejax.edit.methods import METHODS
from sdejax.evaluation.edits import EditCase
from sdejax.evaluation.metrics import Candidates, check_finite, kept_pixels, l1, preservation, psnr, ssim
from sdejax.evaluation.perceptual import ImageImage, ImageText
from sdejax.media.images import contact_sheet, save_png, to_image
from sdejax.model.model import Model, UnknownWordWarning
from sdejax.noise.keys import keys
from sdejax.runtime.files import write_atomically
from sdejax.solvers.sampler import Sampler

UNEDITED = "unedited"  # the source as the result, which a method must beat
_SHOWN = 20
Score = float | None  # None if the edit has no such score


@dataclasses.dataclass(frozen=True)
class Setting:
    """A method at one strength, one guidance and one seed."""

    method: str
    strength: float
    guidance: float
    seed: int

    @property
    def file(self) -> str:
        """The file name of the picture with the results of this setting."""
        return f"{self.method}-{self.strength:g}-{self.guidance:g}-{self.seed}.png"


_SOURCE = Setting(UNEDITED, 0.0, 1.0, 0)


class SettingRow(TypedDict):
    """The results of a setting, as a line of rows.jsonl has them.

    `evaluations` is the number of network evaluations per image. `seconds` is the time per image, without the first
    batch of a program. That batch compiles the program and takes `first_seconds`. `scores` has for each metric the
    scores of the edits.
    """

    method: str
    strength: float
    guidance: float
    seed: int
    evaluations: int
    seconds: float | None
    first_seconds: float | None
    scores: dict[str, list[Score]]


@dataclasses.dataclass(frozen=True)
class SettingGrid:
    """The settings of a run: each method at each strength, guidance and seed.

    A method without randomness has only the first seed. `steps` are the solver's, `batch` is the number of edits that
    are computed together, and `masked` says whether the methods get the masks of the edits.
    """

    methods: tuple[str, ...]
    strengths: tuple[float, ...]
    guidances: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int = 20
    batch: int = 102
    masked: bool = False

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"methods={unknown[0]!r}: must be among {', '.join(METHODS)}")
        if wrong := [value for value in self.strengths if not 0.0 < value <= 1.0]:
            raise ValueError(f"strengths={wrong[0]}: each must be in (0, 1]")
        if wrong := [value for value in self.guidances if not np.isfinite(value)]:
            raise ValueError(f"guidances={wrong[0]}: each must be a finite number")
        for name in ("methods", "strengths", "guidances", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={', '.join(map(str, values))}: must be at least one, and none of them twice")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")

    def settings(self) -> list[Setting]:
        """All settings, ordered by seed first, so that an interrupted run has rows of all methods and strengths."""
        return [
            Setting(method, strength, guidance, seed)
            for seed in self.seeds
            for method in self.methods
            if METHODS[method].drawn or seed == self.seeds[0]
            for guidance in self.guidances
            for strength in self.strengths
        ]


@dataclasses.dataclass(frozen=True)
class Scorers:
    """The scores to compute: always the metrics of metrics.py, and those of the given networks.

    `candidates` are the possible results of the edits with a known true result.
    """

    candidates: Candidates | None = None
    clip: ImageText | None = None
    dino: ImageImage | None = None
    lpips: ImageImage | None = None

    def score(self, edits: Sequence[EditCase], results: np.ndarray) -> dict[str, list[Score]]:
        """Score the results (n, h, w, c) of edits, by metric.

        **Raises:** `ValueError` that names the edit, if a score is not finite.
        """
        names = [edit.name for edit in edits]
        check_finite("result", np.asarray(results, np.float64).sum((1, 2, 3)), names)
        results = np.clip(results, -1.0, 1.0)
        source = np.stack([edit.source for edit in edits])
        with_truth = [i for i, edit in enumerate(edits) if edit.truth is not None]
        kept = np.stack([_kept(edit) for edit in edits])
        preserved = preservation(results, source, kept)
        found: dict[str, tuple[Sequence[int], np.ndarray]] = {"change": (range(len(edits)), l1(results, source))}
        found["kept"] = (np.flatnonzero(preserved.exists).tolist(), preserved.values[preserved.exists])
        if self.clip is not None:
            found["clip"] = (range(len(edits)), self.clip(results, [edit.target_prompt for edit in edits]))
        given = (("dino", self.dino), ("lpips", self.lpips))
        networks = {name: network for name, network in given if network is not None}
        for name, compare in networks.items():
            found[f"{name}_source"] = (range(len(edits)), compare(results, source))
        if with_truth:
            truth = np.stack([edit.truth for edit in edits if edit.truth is not None])
            edited = results[with_truth]
            found |= {name: (with_truth, metric(edited, truth)) for name, metric in _TO_TRUTH.items()}
            if self.candidates is not None:
                found["nearest"] = (with_truth, self.candidates.nearest_is(edited, truth).astype(np.float64))
            for name, compare in networks.items():
                found[f"{name}_truth"] = (with_truth, compare(edited, truth))
        return {name: _per_edit(name, rows, values, names) for name, (rows, values) in found.items() if len(rows)}


_TO_TRUTH = {"l1": l1, "psnr": psnr, "ssim": ssim}


def _kept(edit: EditCase) -> np.ndarray:
    """Which pixels the edit should not change: (h, w), bool.

    They follow from the truth, or without a truth from the mask. Without either, there are none.
    """
    if edit.truth is not None:
        return kept_pixels(edit.source[None], edit.truth[None])[0]
    return np.zeros(edit.source.shape[:2], bool) if edit.mask is None else edit.mask[..., 0] <= 0.0


def _per_edit(metric: str, rows: Sequence[int], values: np.ndarray, names: list[str]) -> list[Score]:
    """Spread the `values` of the edits with numbers `rows` over all edits; the others have None."""
    check_finite(metric, values, [names[row] for row in rows])
    scores: list[Score] = [None] * len(names)
    for row, value in zip(rows, values, strict=True):
        scores[row] = float(f"{value:.7g}")
    return scores


def shown_edits(edits: Sequence[EditCase]) -> list[int]:
    """The numbers of the 20 edits that the sheet shows, drawn at random with a fixed seed."""
    drawn = np.random.default_rng(0).permutation(len(edits))[:_SHOWN]
    return sorted(int(i) for i in drawn)


def evaluate(
    model: Model,
    edits: Sequence[EditCase],
    grid: SettingGrid,
    out: str | Path,
    scorers: Scorers,
    tell: Callable[[str], None] = lambda text: None,
) -> list[SettingRow]:
    """Run the settings that are not yet in `out`/rows.jsonl.

    The folder `out`/results gets a picture for each setting: a strip with the results of `shown_edits`. `tell` is
    called with a message after each setting.

    **Returns:** the rows of the whole grid, after one for the unedited source.

    **Raises:** `ValueError` if the model has no text, if a score is not finite, or if `out` holds rows of another
    model, other edits or steps.
    """
    if not model.conditioner.prompted:
        raise ValueError("snapshot: this model was trained without text, and text edits need prompts")
    out, shown, settings = Path(out), shown_edits(edits), grid.settings()
    # This uses every scorer, so it fails before anything is written.
    unedited = _row(_SOURCE, 0, None, None, scorers.score(edits, np.stack([edit.source for edit in edits])))
    rows = _RowsFile(out / "rows.jsonl", _identity(model, edits, grid, scorers))
    if dataclasses.astuple(_SOURCE) not in rows.done:
        rows.add(unedited)
    left = [setting for setting in settings if dataclasses.astuple(setting) not in rows.done]
    (out / "results").mkdir(exist_ok=True)
    compiled: set[tuple[str, bool]] = set()
    for number, setting in enumerate(left, 1):
        method, program = METHODS[setting.method], (setting.method, setting.guidance == 1.0)
        results, seconds = _run(model, edits, grid, setting)
        first = None if program in compiled else seconds.pop(0)
        compiled.add(program)
        each = float(np.mean(seconds)) / min(grid.batch, len(edits)) if seconds else None
        scores = scorers.score(edits, results)
        _save_strip(out, setting, results[shown])
        rows.add(_row(setting, method.evaluations(grid.steps, setting.guidance), each, first, scores))
        tell(f"{number} of {len(left)} settings: {setting.file.removesuffix('.png')}")
    return rows.of(settings)


def draw_strip(model: Model, edits: Sequence[EditCase], grid: SettingGrid, setting: Setting, out: str | Path) -> None:
    """Compute the picture of a setting again, for a folder that has its row but not its picture."""
    (Path(out) / "results").mkdir(exist_ok=True)
    _save_strip(Path(out), setting, _run(model, [edits[i] for i in shown_edits(edits)], grid, setting)[0])


def _save_strip(out: Path, setting: Setting, results: np.ndarray) -> None:
    strip = [to_image(np.clip(result, -1.0, 1.0)) for result in results]
    save_png(out / "results" / setting.file, contact_sheet(strip, columns=len(strip), scale=1, gap=0))


def _run(
    model: Model, edits: Sequence[EditCase], grid: SettingGrid, setting: Setting
) -> tuple[np.ndarray, list[float]]:
    """Compute the results (n, h, w, c) of a setting, and the seconds of each batch."""
    method, batch = METHODS[setting.method], min(grid.batch, len(edits))
    results, seconds = [], []
    for first in range(0, len(edits), batch):
        some = list(edits[first : first + batch])
        # The last batch is filled up to the size of the others, so that the same program serves it.
        filled = some + [some[-1]] * (batch - len(some))
        masks = np.stack([np.ones((*e.source.shape[:2], 1), np.float32) if e.mask is None else e.mask for e in filled])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownWordWarning)
            source = model.denoiser([edit.source_prompt for edit in filled] if method.prompted else None)
            target = model.denoiser(
                [edit.target_prompt for edit in filled], None if setting.guidance == 1.0 else setting.guidance
            )
        started = time.perf_counter()
        found = method.edit(
            source,
            target,
            model.sde,
            np.stack([edit.source for edit in filled]),
            keys(edit_seed(edit.name, setting.seed) for edit in filled),
            strength=setting.strength,
            mask=masks if grid.masked else None,
            sampler=Sampler(grid.steps),
        )
        results.append(np.asarray(found)[: len(some)])
        seconds.append(time.perf_counter() - started)
    return np.concatenate(results), seconds


def edit_seed(name: str, seed: int) -> int:
    """The seed of the key of an edit; it does not depend on the other edits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def _row(
    setting: Setting,
    evaluations: int,
    seconds: float | None,
    first_seconds: float | None,
    scores: dict[str, list[Score]],
) -> SettingRow:
    return {
        "method": setting.method,
        "strength": setting.strength,
        "guidance": setting.guidance,
        "seed": setting.seed,
        "evaluations": evaluations,
        "seconds": seconds,
        "first_seconds": first_seconds,
        "scores": scores,
    }


class _Identity(TypedDict):
    """What must be equal for rows that are in one table: the first line of rows.jsonl."""

    snapshot: str
    edits: str
    number: int
    steps: int
    masked: bool
    networks: list[str]


def _identity(model: Model, edits: Sequence[EditCase], grid: SettingGrid, scorers: Scorers) -> _Identity:
    digest = hashlib.sha256()
    for edit in edits:
        digest.update(f"{edit.name}\0{edit.source_prompt}\0{edit.target_prompt}\0".encode())
        for image in (edit.source, edit.truth, edit.mask):
            digest.update(b"-" if image is None else np.ascontiguousarray(image, np.float32).tobytes())
    networks = [name for name in ("clip", "dino", "lpips") if getattr(scorers, name) is not None]
    return {
        "snapshot": model.source,
        "edits": digest.hexdigest(),
        "number": len(edits),
        "steps": grid.steps,
        "masked": grid.masked,
        "networks": networks,
    }


class _RowsFile:
    """The file rows.jsonl: the identity, then a row per line. An incomplete last line is removed."""

    def __init__(self, path: Path, identity: _Identity):
        self.path = path
        self.done: dict[tuple[str, float, float, int], SettingRow] = {}
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            lines = [json.loads(line) for line in whole.splitlines()]
            if not lines or lines[0] != identity:
                before = lines[0] if lines else {}
                other = next((key for key, value in identity.items() if before.get(key) != value), "rows")
                raise ValueError(
                    f"out={str(path.parent)!r}: holds results with other {other} "
                    f"({before.get(other)!r}, not {identity.get(other)!r}); choose another folder"
                )
            if whole != text:
                write_atomically(path, whole.encode())
            self.done = {_setting_of(row): row for row in lines[1:]}
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, (json.dumps(identity) + "\n").encode())
            except OSError as error:
                raise ValueError(f"out={str(path.parent)!r}: cannot be written ({error.strerror})") from None

    def add(self, row: SettingRow) -> None:
        """Write a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self.done[_setting_of(row)] = row

    def of(self, settings: Sequence[Setting]) -> list[SettingRow]:
        """The row of the unedited source, then those of the settings."""
        return [
            self.done[dataclasses.astuple(_SOURCE)],
            *(self.done[dataclasses.astuple(setting)] for setting in settings),
        ]


def _setting_of(row: SettingRow) -> tuple[str, float, float, int]:
    return row["method"], row["strength"], row["guidance"], row["seed"]

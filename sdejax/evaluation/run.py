"""Methods over edits, strengths, guidances and seeds: every result scored, none picked.

A setting is a method at one strength, one guidance and one seed. Its row has a score per edit; rows are written as they
come, and a run that is started again goes on where it was. An image of an edit depends on the edit's name and the seed
alone, not on its batch or on the other edits. Strength and guidance are traced: one compiled program serves a method's
settings, and a second one those with guidance 1, which is the prompt alone and saves the unconditional evaluation.
"""

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.edit.methods import METHODS
from sdejax.evaluation.edits import Edit
from sdejax.evaluation.metrics import Candidates, check_finite, kept_pixels, l1, preservation, psnr, ssim
from sdejax.evaluation.perceptual import ImageImage, ImageText
from sdejax.media.images import contact_sheet, save_png, to_image, write_atomically
from sdejax.model.model import Model, UnknownWordWarning
from sdejax.noise.keys import keys
from sdejax.solvers.sampler import Sampler

UNEDITED = "unedited"  # the source as its own result: what a method must beat
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the grid."""

    method: str
    strength: float
    guidance: float
    seed: int

    @property
    def file(self) -> str:
        """The name of the picture that shows this setting's results."""
        return f"{self.method}-{self.strength:g}-{self.guidance:g}-{self.seed}.png"


_SOURCE = Setting(UNEDITED, 0.0, 1.0, 0)


@dataclasses.dataclass(frozen=True)
class SettingGrid:
    """What is run: every method at every strength, guidance and seed (one seed where nothing is drawn)."""

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
        """All of them, a seed of the whole grid after the other, so that a run cut short has seen every setting."""
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
    """What scores the results: always the metrics of metrics.py, and networks where they were asked for.

    `candidates` are what an edit with a known true result might have become.
    """

    candidates: Candidates | None = None
    clip: ImageText | None = None
    dino: ImageImage | None = None
    lpips: ImageImage | None = None

    def score(self, edits: Sequence[Edit], results: np.ndarray) -> dict[str, list[float | None]]:
        """The metrics of results (n, h, w, c), by name; None where an edit has no such score.

        **Raises:** `ValueError` naming the edit of a score that is not finite.
        """
        names = [edit.name for edit in edits]
        check_finite("result", np.asarray(results, np.float64).sum((1, 2, 3)), names)
        results = np.clip(results, -1.0, 1.0)
        source = np.stack([edit.source for edit in edits])
        true = [i for i, edit in enumerate(edits) if edit.truth is not None]
        kept = np.stack([_kept(edit) for edit in edits])
        preserved = preservation(results, source, kept)
        found: dict[str, tuple[Sequence[int], np.ndarray]] = {"change": (range(len(edits)), l1(results, source))}
        found["kept"] = (np.flatnonzero(preserved.there).tolist(), preserved.values[preserved.there])
        if self.clip is not None:
            found["clip"] = (range(len(edits)), self.clip(results, [edit.target_prompt for edit in edits]))
        similar = {"dino": self.dino, "lpips": self.lpips}
        for name, compare in similar.items():
            if compare is not None:
                found[f"{name}_source"] = (range(len(edits)), compare(results, source))
        if true:
            truth, edited = np.stack([edits[i].truth for i in true]), results[true]  # pyright: ignore[reportCallIssue, reportArgumentType]
            found |= {name: (true, metric(edited, truth)) for name, metric in _TO_TRUTH.items()}
            if self.candidates is not None:
                found["nearest"] = (true, self.candidates.nearest_is(edited, truth).astype(np.float64))
            for name, compare in similar.items():
                if compare is not None:
                    found[f"{name}_truth"] = (true, compare(edited, truth))
        return {name: _per_edit(name, rows, values, names) for name, (rows, values) in found.items() if len(rows)}


_TO_TRUTH = {"l1": l1, "psnr": psnr, "ssim": ssim}


def _kept(edit: Edit) -> np.ndarray:
    """(h, w), where the edit should leave the image as it is: what the truth says, or else the mask; else nowhere."""
    if edit.truth is not None:
        return kept_pixels(edit.source[None], edit.truth[None])[0]
    return np.zeros(edit.source.shape[:2], bool) if edit.mask is None else edit.mask[..., 0] <= 0.0


def _per_edit(metric: str, rows: Sequence[int], values: np.ndarray, names: list[str]) -> list[float | None]:
    check_finite(metric, values, [names[row] for row in rows])
    scores: list[float | None] = [None] * len(names)
    for row, value in zip(rows, values, strict=True):
        scores[row] = float(f"{value:.7g}")
    return scores


def shown_edits(edits: Sequence[Edit]) -> list[int]:
    """Which 20 edits the sheet shows: drawn at random, with a fixed seed."""
    drawn = np.random.default_rng(0).permutation(len(edits))[:_SHOWN]
    return sorted(int(i) for i in drawn)


def evaluate(
    model: Model,
    edits: Sequence[Edit],
    grid: SettingGrid,
    out: str | Path,
    scorers: Scorers,
    tell: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Run the settings that OUT/rows.jsonl does not have yet, and return the rows of the whole grid.

    The rows begin with the unedited source's. Beside them, OUT/results has a strip of pictures per setting: the results
    of `shown_edits`.

    **Raises:** `ValueError` where a score is not finite, or OUT holds rows of another model, other edits or steps.
    """
    if not model.conditioner.prompted:
        raise ValueError("snapshot: this model was trained without text, and text edits need prompts")
    out, shown, settings = Path(out), shown_edits(edits), grid.settings()
    # Before anything is written, because it uses every scorer.
    unedited = _row(_SOURCE, 0, None, None, scorers.score(edits, np.stack([edit.source for edit in edits])))
    rows = _Rows(out / "rows.jsonl", _identity(model, edits, grid, scorers))
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


def draw_strip(model: Model, edits: Sequence[Edit], grid: SettingGrid, setting: Setting, out: str | Path) -> None:
    """The strip of pictures of a setting again, for a folder that has its row and not its pictures."""
    (Path(out) / "results").mkdir(exist_ok=True)
    _save_strip(Path(out), setting, _run(model, [edits[i] for i in shown_edits(edits)], grid, setting)[0])


def _save_strip(out: Path, setting: Setting, results: np.ndarray) -> None:
    strip = [to_image(np.clip(result, -1.0, 1.0)) for result in results]
    save_png(out / "results" / setting.file, contact_sheet(strip, columns=len(strip), scale=1, gap=0))


def _run(model: Model, edits: Sequence[Edit], grid: SettingGrid, setting: Setting) -> tuple[np.ndarray, list[float]]:
    """The results (n, h, w, c) of a setting, and the seconds of each batch."""
    method, batch = METHODS[setting.method], min(grid.batch, len(edits))
    results, seconds = [], []
    for first in range(0, len(edits), batch):
        some = list(edits[first : first + batch])
        # The last batch is filled up, so that one program serves them all.
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
    """A key's seed for an edit, whatever edits are beside it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def _row(
    setting: Setting, evaluations: int, seconds: float | None, first: float | None, scores: dict[str, Any]
) -> dict[str, Any]:
    """`seconds` are an image's, without the first batch of a program, which compiles it and takes `first_seconds`."""
    return {
        **dataclasses.asdict(setting),
        "evaluations": evaluations,
        "seconds": seconds,
        "first_seconds": first,
        "scores": scores,
    }


def _identity(model: Model, edits: Sequence[Edit], grid: SettingGrid, scorers: Scorers) -> dict[str, Any]:
    """What rows must share to be in one table."""
    digest = hashlib.sha256()
    for edit in edits:
        digest.update(f"{edit.name}\0{edit.source_prompt}\0{edit.target_prompt}\0".encode())
        for image in (edit.source, edit.truth, edit.mask):
            digest.update(b"-" if image is None else np.ascontiguousarray(image, np.float32).tobytes())
    networks = [name for name in ("clip", "dino", "lpips") if getattr(scorers, name) is not None]
    identity = {"snapshot": model.source, "edits": digest.hexdigest(), "number": len(edits), "steps": grid.steps}
    return {**identity, "masked": grid.masked, "networks": networks}


class _Rows:
    """A file of JSON lines: what the rows share, then a row each. A last line that was cut short is dropped."""

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            lines = [json.loads(line) for line in whole.splitlines()]
            if not lines or lines[0] != identity:
                before = lines[0] if lines else {}
                other = next((key for key, value in identity.items() if before.get(key) != value), "rows")
                raise ValueError(
                    f"out={str(path.parent)!r}: holds results with other {other} "
                    f"({before.get(other)!r}, not {identity.get(other)!r}); give another folder"
                )
            if whole != text:
                write_atomically(path, whole.encode())
            self.done = {_place(row): row for row in lines[1:]}
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, (json.dumps(identity) + "\n").encode())
            except OSError as error:
                raise ValueError(f"out={str(path.parent)!r}: cannot be written ({error.strerror})") from None
            self.done = {}

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        self.done[_place(row)] = row

    def of(self, settings: Sequence[Setting]) -> list[dict[str, Any]]:
        return [
            self.done[dataclasses.astuple(_SOURCE)],
            *(self.done[dataclasses.astuple(setting)] for setting in settings),
        ]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[field.name] for field in dataclasses.fields(Setting))

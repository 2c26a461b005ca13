"""What an evaluation found: a table at each method's best setting, curves of fidelity against preservation, a sheet.

The best setting of a method is chosen on one half of the edits and reported on the other, on which nothing was chosen.
The edits are halved by the SHA-256 of their names, family by family, those with unseen targets apart. A score of an
edit is its mean over the seeds; an interval is a bootstrap over edits, which are what differs from benchmark to
benchmark.
"""

import dataclasses
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sdejax.evaluation.edits import Edit
from sdejax.evaluation.metrics import Masked, bootstrap_interval
from sdejax.evaluation.run import UNEDITED, Setting, shown_edits
from sdejax.media.images import contact_sheet, save_png, to_image, write_atomically


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score: what a table calls it, whether more is better, and how many digits it is told with."""

    title: str
    more: bool
    digits: int = 3


METRICS: Mapping[str, Metric] = {
    "l1": Metric("L1 to the truth", False, 4),
    "psnr": Metric("PSNR, dB", True, 2),
    "ssim": Metric("SSIM", True),
    "nearest": Metric("nearest is the truth", True),
    "kept": Metric("L1 to the source where it should stay", False, 4),
    "change": Metric("L1 to the source", False, 4),
    "clip": Metric("CLIP score", True, 2),
    "dino_truth": Metric("DINO to the truth", True),
    "dino_source": Metric("DINO to the source", True),
    "lpips_truth": Metric("LPIPS to the truth", False),
    "lpips_source": Metric("LPIPS to the source", False),
}


@dataclasses.dataclass(frozen=True)
class Scored:
    """A method at a strength and a guidance: the scores of each edit, means over the seeds."""

    method: str
    strength: float
    guidance: float
    evaluations: int
    seconds: float | None
    first_seconds: float | None
    scores: Mapping[str, Masked]

    def mean(self, metric: str, among: np.ndarray) -> float | None:
        """Over the edits of `among` (n,), bool, that have the score; None where none has it."""
        there = self.scores[metric].there & among
        return float(self.scores[metric].values[there].mean()) if there.any() else None


def gather(rows: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """Rows of `evaluate`, the seeds of a setting together, in the order in which they come.

    Seconds are the median over the seeds; those of a first batch the largest among the method's programs.
    """
    groups: dict[tuple[str, float, float], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["method"], row["strength"], row["guidance"]].append(row)
    first: dict[str, float | None] = defaultdict(lambda: None)
    for row in rows:
        if row["first_seconds"] is not None:
            first[row["method"]] = max(first[row["method"]] or 0.0, row["first_seconds"])
    found = []
    for (method, strength, guidance), same in groups.items():
        scores = {}
        for metric in same[0]["scores"]:
            columns = [row["scores"][metric] for row in same]
            there = np.array([value is not None for value in columns[0]])
            values = np.array([[0.0 if value is None else value for value in column] for column in columns])
            scores[metric] = Masked(values.mean(0), there)
        seconds = [row["seconds"] for row in same if row["seconds"] is not None]
        times = float(np.median(seconds)) if seconds else None, first[method]
        found.append(Scored(method, strength, guidance, same[0]["evaluations"], *times, scores))
    return found


def halves(edits: Sequence[Edit]) -> np.ndarray:
    """(n,), bool: True where settings are chosen, False where they are reported."""
    order = sorted(range(len(edits)), key=lambda i: (edits[i].family, str(edits[i].unseen), _hash(edits[i].name)))
    choosing = np.zeros(len(edits), bool)
    choosing[order[::2]] = True
    return choosing


def _hash(name: str) -> str:
    return hashlib.sha256(f"half of {name}".encode()).hexdigest()


def criterion(found: Sequence[Scored]) -> str | None:
    """What a best setting is best by: L1 to the truth, or where no truth is known the CLIP score; None without both.

    L1 to the truth counts what was not edited and what was not kept alike. The CLIP score counts only the former.
    """
    return next((metric for metric in ("l1", "clip") if metric in found[0].scores), None)


def best_settings(found: Sequence[Scored], by: str, choosing: np.ndarray) -> dict[str, Scored]:
    """Each method's best setting on the edits of `choosing`; the first of equals."""
    sign = -1.0 if METRICS[by].more else 1.0
    best: dict[str, tuple[float, Scored]] = {}
    for one in found:
        mean = one.mean(by, choosing)
        if mean is not None and (one.method not in best or sign * mean < best[one.method][0]):
            best[one.method] = sign * mean, one
    return {method: one for method, (_, one) in best.items()}


def report(
    edits: Sequence[Edit],
    rows: Sequence[Mapping[str, Any]],
    out: str | Path,
    draw: Callable[[Setting], None] | None = None,
) -> list[dict[str, Any]]:
    """Write OUT/table.md, table.json, curves.png and sheet.png; the lines of the first table, a dictionary a method.

    `draw` makes the strip of pictures of a setting whose row came without one, such as a published one.

    **Raises:** `ValueError` where matplotlib (extra `metrics`) is not installed.
    """
    out, found, choosing = Path(out), gather(rows), halves(edits)
    by = criterion(found) if len(edits) > 1 else None
    chosen = best_settings(found, by, choosing) if by else _middle(found)
    lines = [_line(one, ~choosing if by else np.ones(len(edits), bool)) for one in chosen.values()]
    drawn = curves(found, chosen)
    shown = sheet(edits, chosen, rows, out / "results", draw)
    text = _markdown(edits, found, chosen, lines, by, choosing)
    write_atomically(out / "curves.png", drawn)
    save_png(out / "sheet.png", shown)
    write_atomically(out / "table.json", (json.dumps(lines, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(out / "table.md", text.encode())
    return lines


def _middle(found: Sequence[Scored]) -> dict[str, Scored]:
    """Where nothing says which setting is best: each method's middle one."""
    methods: dict[str, list[Scored]] = defaultdict(list)
    for one in found:
        methods[one.method].append(one)
    return {method: several[(len(several) - 1) // 2] for method, several in methods.items()}


def _line(one: Scored, reporting: np.ndarray) -> dict[str, Any]:
    """The means over the edits of `reporting`, with their intervals and how many edits have the score."""
    scores = {}
    for metric, masked in one.scores.items():
        values = masked.values[masked.there & reporting]
        if len(values):
            scores[metric] = {
                "mean": float(values.mean()),
                "interval": bootstrap_interval(values),
                "edits": len(values),
            }
    fields = ("method", "strength", "guidance", "evaluations", "seconds", "first_seconds")
    return {**{field: getattr(one, field) for field in fields}, "scores": scores}


def _markdown(
    edits: Sequence[Edit],
    found: Sequence[Scored],
    chosen: Mapping[str, Scored],
    lines: Sequence[Mapping[str, Any]],
    by: str | None,
    choosing: np.ndarray,
) -> str:
    metrics = [metric for metric in METRICS if any(metric in one.scores for one in found)]
    titles = [METRICS[metric].title for metric in metrics]
    how = f"Each method at its middle setting, {len(edits)} edits; nothing says which setting is best."
    if by:
        how = (
            f"Each method at the setting with the best {METRICS[by].title} on {choosing.sum()} edits, reported on the "
            f"other {(~choosing).sum()}."
        )
    parts = [f"{how} Means over edits and seeds, with 95% bootstrap intervals over edits.\n"]
    head = ["method", "strength", "guidance", *titles, "evaluations", "s per image", "s of the first batch"]
    parts.append(_table(head, [_cells(line, metrics) for line in lines]))
    if by:
        parts.append(_paired(list(chosen.values()), by, ~choosing))
    groups = {f"target {'never seen' if unseen else 'seen'} in training": unseen for unseen in (True, False)}
    among = {name: np.array([edit.unseen is unseen for edit in edits]) for name, unseen in groups.items()}
    among |= {
        family: np.array([edit.family == family for edit in edits]) for family in sorted({e.family for e in edits})
    }
    reporting = ~choosing if by else np.ones(len(edits), bool)
    for metric in [metric for metric in ("l1", "nearest", "kept", "clip") if metric in metrics]:
        present = {name: group & reporting for name, group in among.items() if name and (group & reporting).any()}
        if present:
            parts.append(f"\n{METRICS[metric].title}, by kind of edit, at the same settings and on the same edits:\n")
            table = [
                [method, *(_number(one.mean(metric, group), metric) for group in present.values())]
                for method, one in chosen.items()
            ]
            parts.append(_table(["method", *(f"{name} ({group.sum()})" for name, group in present.items())], table))
    everything = np.ones(len(edits), bool)
    parts.append(f"\nEvery setting, on all {len(edits)} edits:\n")
    table = [
        [*_name(one), *(_number(one.mean(metric, everything), metric) for metric in metrics), str(one.evaluations)]
        for one in found
    ]
    parts.append(_table(["method", "strength", "guidance", *titles, "evaluations"], table))
    parts.append("\nThe columns of the sheet, drawn at random:\n")
    parts += [f"{n}. {edits[i].source_prompt} -> {edits[i].target_prompt}" for n, i in enumerate(shown_edits(edits), 1)]
    return "\n".join(parts) + "\n"


def difference(one: Scored, other: Scored, metric: str, among: np.ndarray) -> np.ndarray:
    """A metric of `one` less that of `other`, edit by edit, where both have it: edits differ more than methods do."""
    mine, its = one.scores[metric], other.scores[metric]
    there = mine.there & its.there & among
    return mine.values[there] - its.values[there]


def _paired(chosen: Sequence[Scored], by: str, among: np.ndarray) -> str:
    """The first method against each of the others on the same edits; "" where there is no other."""
    methods = [one for one in chosen if one.method != UNEDITED]
    if not methods:
        return ""
    first, table = methods[0], []
    for other in methods[1:]:
        differences = difference(first, other, by, among)
        if not len(differences):
            continue
        values = (differences.mean(), *bootstrap_interval(differences))
        mean, low, high = (f"{value:+.{METRICS[by].digits}f}" for value in values)
        row = [
            other.method,
            f"{mean} [{low}, {high}]",
            f"{np.mean(differences > 0.0 if METRICS[by].more else differences < 0.0):.0%}",
        ]
        if "nearest" in first.scores:
            truths = difference(first, other, "nearest", among)
            row += [f"{(truths > 0.0).sum()}, {(truths < 0.0).sum()}"]
        table.append(row)
    if not table:
        return ""
    head = ["method", f"{first.method} less it", f"edits on which {first.method} is better"]
    head += [f"more true answers of {first.method}, of the other"] * ("nearest" in first.scores)
    return f"\n{METRICS[by].title}, paired by edit, at the same settings:\n\n{_table(head, table)}"


def _name(one: Scored) -> list[str]:
    return [one.method, *(["", ""] if one.method == UNEDITED else [f"{one.strength:g}", f"{one.guidance:g}"])]


def _cells(line: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    cells = [line["method"], f"{line['strength']:g}", f"{line['guidance']:g}"]
    cells = [cells[0], "", ""] if line["method"] == UNEDITED else cells
    for metric in metrics:
        score = line["scores"].get(metric)
        if score is None:
            cells.append("")
            continue
        low, high = (_number(value, metric) for value in score["interval"])
        cells.append(f"{_number(score['mean'], metric)} [{low}, {high}]")
    times = ["" if line[key] is None else f"{line[key]:.3g}" for key in ("seconds", "first_seconds")]
    return [*cells, str(line["evaluations"]), *times]


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.{METRICS[metric].digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def plotting() -> tuple[Any, Any]:
    """matplotlib's Figure and colour maps.

    **Raises:** `ValueError` where it is not installed.
    """
    try:
        from matplotlib import colormaps  # pyright: ignore[reportMissingImports]
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("the curves need matplotlib: pip install 'sdejax[metrics]'") from None
    return Figure, colormaps


def curves(found: Sequence[Scored], chosen: Mapping[str, Scored]) -> bytes:
    """A PNG: fidelity against preservation over all edits, a line over the strengths per method.

    The line has the guidance of the chosen setting, which is ringed; the other guidances are points.
    """
    figure_class, colormaps = plotting()
    kept = next(metric for metric in ("kept", "change") if metric in found[0].scores)
    heights = [metric for metric in ("nearest", "l1", "clip", "lpips_source") if metric in found[0].scores] or [
        "change"
    ]
    figure = figure_class(figsize=(5.5 * len(heights), 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(heights), squeeze=False)[0]
    everything = np.ones(len(found[0].scores[kept].there), bool)
    for number, (method, best) in enumerate(chosen.items()):
        colour = "black" if method == UNEDITED else colormaps["tab10"](number - 1)
        for panel, height in zip(panels, heights, strict=True):

            def place(several: Sequence[Scored], height: str = height) -> tuple[list[Any], list[Any]]:
                return tuple([one.mean(metric, everything) for one in several] for metric in (kept, height))  # pyright: ignore[reportReturnType]

            same = [one for one in found if one.method == method]
            line = sorted((one for one in same if one.guidance == best.guidance), key=lambda one: one.strength)
            panel.plot(*place(line), color=colour, marker="x" if method == UNEDITED else ".", label=method)
            panel.plot(*place([one for one in same if one not in line]), color=colour, marker=".", ls="", alpha=0.3)
            panel.plot(*place([best]), color=colour, marker="o", markersize=9, fillstyle="none", ls="")
    for panel, height in zip(panels, heights, strict=True):
        panel.set_xlabel(f"{METRICS[kept].title}  (less is better)")
        panel.set_ylabel(f"{METRICS[height].title}  ({'more' if METRICS[height].more else 'less'} is better)")
        panel.grid(alpha=0.3)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def sheet(
    edits: Sequence[Edit],
    chosen: Mapping[str, Scored],
    rows: Sequence[Mapping[str, Any]],
    results: Path,
    draw: Callable[[Setting], None] | None = None,
) -> Image.Image:
    """The edits of `shown_edits`, one a column: source, truth, and each method's result, at the first seed."""
    shown = [edits[i] for i in shown_edits(edits)]
    height, width = shown[0].source.shape[:2]
    scale = max(1, -(-64 // max(width, height)))
    blank = Image.new("RGB", (width, height), "white")
    strips = [("source", [to_image(edit.source) for edit in shown])]
    if any(edit.truth is not None for edit in shown):
        strips.append(("truth", [blank if edit.truth is None else to_image(edit.truth) for edit in shown]))
    for method, one in chosen.items():
        if method != UNEDITED:
            seed = next(row["seed"] for row in rows if row["method"] == method)
            setting = Setting(method, one.strength, one.guidance, seed)
            if draw is not None and not (results / setting.file).exists():
                draw(setting)
            with Image.open(results / setting.file) as strip:
                found = strip.convert("RGB")
            boxes = [(i * width, 0, (i + 1) * width, height) for i in range(len(shown))]
            strips.append(
                (f"{method}\nstrength {one.strength:g}, guidance {one.guidance:g}", [found.crop(box) for box in boxes])
            )
    pictures = contact_sheet([image for _, images in strips for image in images], columns=len(shown), scale=scale)
    margin, step = 210, height * scale + 4
    whole = Image.new("RGB", (pictures.width + margin, pictures.height), "white")
    whole.paste(pictures, (margin, 0))
    pen = ImageDraw.Draw(whole)
    for number, (label, _) in enumerate(strips):
        pen.text((8, 4 + number * step + step // 2 - 12), label, fill="black")
    return whole

"""The report of a run: a table with each method at its best setting, curves, and a sheet of pictures.

An interval is a bootstrap over edits, because the edits are what differs between benchmarks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from sdejax.evaluation.edits import EditCase
from sdejax.evaluation.figures import draw_curves, draw_sheet
from sdejax.evaluation.metrics import bootstrap_interval
from sdejax.evaluation.run import UNEDITED, Setting, SettingRow, shown_edits
from sdejax.evaluation.scores import (
    METRICS,
    SettingScores,
    best_settings,
    choosing_half,
    criterion,
    difference,
    gather,
    middle_settings,
)
from sdejax.media.images import save_png
from sdejax.runtime.files import write_atomically


class LineScore(TypedDict):
    """A mean over edits, its 95% interval, and the number of edits that have the score."""

    mean: float
    interval: tuple[float, float]
    edits: int


class Line(TypedDict):
    """A line of the first table: a method at its chosen setting. The fields are as in `SettingRow`."""

    method: str
    strength: float
    guidance: float
    evaluations: int
    seconds: float | None
    first_seconds: float | None
    scores: dict[str, LineScore]


def report(
    edits: Sequence[EditCase],
    rows: Sequence[SettingRow],
    out: str | Path,
    draw: Callable[[Setting], None] | None = None,
) -> list[Line]:
    """Write table.md, table.json, curves.png and sheet.png to the folder `out`.

    `draw` is called for a setting whose picture is missing, as that of a published row. It must write the picture.

    **Returns:** the lines of the first table, one per method.

    **Raises:** `ValueError` if matplotlib (extra `metrics`) is not installed.
    """
    out, settings, choosing = Path(out), gather(rows), choosing_half(edits)
    by = criterion(settings) if len(edits) > 1 else None
    chosen = best_settings(settings, by, choosing) if by else middle_settings(settings)
    reporting = ~choosing if by else np.ones(len(edits), bool)
    lines = [_line(setting, reporting) for setting in chosen.values()]
    curves = draw_curves(settings, chosen)
    sheet = draw_sheet(edits, chosen, rows, out / "results", draw)
    text = _markdown(edits, settings, chosen, lines, by, reporting)
    write_atomically(out / "curves.png", curves)
    save_png(out / "sheet.png", sheet)
    write_atomically(out / "table.json", (json.dumps(lines, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(out / "table.md", text.encode())
    return lines


def _line(setting: SettingScores, reporting: np.ndarray) -> Line:
    """The means over the edits of `reporting`."""
    scores: dict[str, LineScore] = {}
    for metric, masked in setting.scores.items():
        values = masked.values[masked.exists & reporting]
        if len(values):
            interval = bootstrap_interval(values)
            scores[metric] = {"mean": float(values.mean()), "interval": interval, "edits": len(values)}
    return {
        "method": setting.method,
        "strength": setting.strength,
        "guidance": setting.guidance,
        "evaluations": setting.evaluations,
        "seconds": setting.seconds,
        "first_seconds": setting.first_seconds,
        "scores": scores,
    }


def _markdown(
    edits: Sequence[EditCase],
    settings: Sequence[SettingScores],
    chosen: Mapping[str, SettingScores],
    lines: Sequence[Line],
    by: str | None,
    reporting: np.ndarray,
) -> str:
    """The text of table.md. The metric `by` chose the settings, on the edits that are not in `reporting`."""
    metrics = [metric for metric in METRICS if any(metric in setting.scores for setting in settings)]
    titles = [METRICS[metric].title for metric in metrics]
    how = f"Each method at its middle setting, {len(edits)} edits; no metric says which setting is best."
    if by:
        how = (
            f"Each method at the setting with the best {METRICS[by].title} on {(~reporting).sum()} edits, reported on "
            f"the other {reporting.sum()}."
        )
    parts = [f"{how} Means over edits and seeds, with 95% bootstrap intervals over edits.\n"]
    head = ["method", "strength", "guidance", *titles, "evaluations", "s per image", "s of the first batch"]
    parts.append(_table(head, [_cells(line, metrics) for line in lines]))
    if by:
        parts.append(_paired(list(chosen.values()), by, reporting))
    important = [metric for metric in ("l1", "nearest", "kept", "clip") if metric in metrics]
    parts += _by_kind(edits, chosen, important, reporting)
    everything = np.ones(len(edits), bool)
    parts.append(f"\nEvery setting, on all {len(edits)} edits:\n")
    table = [
        [*_name(one), *(_number(one.mean(metric, everything), metric) for metric in metrics), str(one.evaluations)]
        for one in settings
    ]
    parts.append(_table(["method", "strength", "guidance", *titles, "evaluations"], table))
    parts.append("\nThe columns of the sheet, drawn at random:\n")
    parts += [f"{n}. {edits[i].source_prompt} -> {edits[i].target_prompt}" for n, i in enumerate(shown_edits(edits), 1)]
    return "\n".join(parts) + "\n"


def _by_kind(
    edits: Sequence[EditCase], chosen: Mapping[str, SettingScores], metrics: Sequence[str], reporting: np.ndarray
) -> list[str]:
    """A table per metric, with a column for each kind of edit."""
    kinds = {f"target {'never seen' if unseen else 'seen'} in training": unseen for unseen in (True, False)}
    groups = {name: np.array([edit.unseen is unseen for edit in edits]) for name, unseen in kinds.items()}
    families = sorted({edit.family for edit in edits})
    groups |= {family: np.array([edit.family == family for edit in edits]) for family in families}
    present = {name: group & reporting for name, group in groups.items() if name and (group & reporting).any()}
    if not present:
        return []
    parts = []
    for metric in metrics:
        parts.append(f"\n{METRICS[metric].title}, by kind of edit, at the same settings and on the same edits:\n")
        table = [
            [method, *(_number(one.mean(metric, group), metric) for group in present.values())]
            for method, one in chosen.items()
        ]
        parts.append(_table(["method", *(f"{name} ({group.sum()})" for name, group in present.items())], table))
    return parts


def _paired(chosen: Sequence[SettingScores], by: str, among: np.ndarray) -> str:
    """Compare the first method with each of the others on the same edits; "" if there is no other."""
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
        better = differences > 0.0 if METRICS[by].higher_is_better else differences < 0.0
        row = [other.method, f"{mean} [{low}, {high}]", f"{np.mean(better):.0%}"]
        if "nearest" in first.scores:
            truths = difference(first, other, "nearest", among)
            row += [f"{(truths > 0.0).sum()}, {(truths < 0.0).sum()}"]
        table.append(row)
    if not table:
        return ""
    head = ["method", f"{first.method} less it", f"edits on which {first.method} is better"]
    head += [f"more true answers of {first.method}, of the other"] * ("nearest" in first.scores)
    return f"\n{METRICS[by].title}, paired by edit, at the same settings:\n\n{_table(head, table)}"


def _name(one: SettingScores) -> list[str]:
    return [one.method, *(["", ""] if one.method == UNEDITED else [f"{one.strength:g}", f"{one.guidance:g}"])]


def _cells(line: Line, metrics: Sequence[str]) -> list[str]:
    cells = [line["method"], f"{line['strength']:g}", f"{line['guidance']:g}"]
    cells = [cells[0], "", ""] if line["method"] == UNEDITED else cells
    for metric in metrics:
        score = line["scores"].get(metric)
        if score is None:
            cells.append("")
            continue
        low, high = (_number(value, metric) for value in score["interval"])
        cells.append(f"{_number(score['mean'], metric)} [{low}, {high}]")
    times = ["" if time is None else f"{time:.3g}" for time in (line["seconds"], line["first_seconds"])]
    return [*cells, str(line["evaluations"]), *times]


def _number(value: float | None, metric: str) -> str:
    return "" if value is None else f"{value:.{METRICS[metric].digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))

"""The pictures of a report: curves of fidelity against preservation, and a sheet of results."""

import io
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from sdejax.evaluation.edits import EditCase
from sdejax.evaluation.run import UNEDITED, Setting, SettingRow, shown_edits
from sdejax.evaluation.scores import METRICS, SettingScores
from sdejax.media.images import contact_sheet, to_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # pyright: ignore[reportMissingImports]


def import_matplotlib() -> types.ModuleType:
    """Import matplotlib with its submodule `figure`.

    **Raises:** `ValueError` if it is not installed.
    """
    try:
        import matplotlib.figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("the curves need matplotlib: pip install 'sdejax[metrics]'") from None
    return matplotlib


def draw_curves(settings: Sequence[SettingScores], chosen: Mapping[str, SettingScores]) -> bytes:
    """Draw a PNG of fidelity against preservation, as means over all edits.

    Each method has a line over its strengths at the guidance of its chosen setting, which has a ring. The settings with
    other guidances are points.
    """
    matplotlib = import_matplotlib()
    across = next(metric for metric in ("kept", "change") if metric in settings[0].scores)
    fidelities = [metric for metric in ("nearest", "l1", "clip", "lpips_source") if metric in settings[0].scores]
    fidelities = fidelities or ["change"]
    figure = matplotlib.figure.Figure(figsize=(5.5 * len(fidelities), 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(fidelities), squeeze=False)[0]
    for panel, metric in zip(panels, fidelities, strict=True):
        for number, (method, best) in enumerate(chosen.items()):
            colour = "black" if method == UNEDITED else matplotlib.colormaps["tab10"](number - 1)
            same = [setting for setting in settings if setting.method == method]
            _draw_method(panel, colour, same, best, across, metric)
        panel.set_xlabel(f"{METRICS[across].title}  (less is better)")
        better = "more" if METRICS[metric].higher_is_better else "less"
        panel.set_ylabel(f"{METRICS[metric].title}  ({better} is better)")
        panel.grid(alpha=0.3)
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_method(
    panel: "Axes",
    colour: str | tuple[float, ...],
    settings: Sequence[SettingScores],
    best: SettingScores,
    across: str,
    up: str,
) -> None:
    """Draw the settings of one method in a panel; `across` and `up` are the metrics of its axes."""
    everything = np.ones(len(best.scores[across].exists), bool)

    def points(some: Sequence[SettingScores]) -> list[np.ndarray]:
        # A mean that does not exist becomes NaN, which is not drawn.
        return [np.array([one.mean(metric, everything) for one in some], float) for metric in (across, up)]

    line = sorted((one for one in settings if one.guidance == best.guidance), key=lambda one: one.strength)
    others = [one for one in settings if one not in line]
    panel.plot(*points(line), color=colour, marker="x" if best.method == UNEDITED else ".", label=best.method)
    panel.plot(*points(others), color=colour, marker=".", ls="", alpha=0.3)
    panel.plot(*points([best]), color=colour, marker="o", markersize=9, fillstyle="none", ls="")


def draw_sheet(
    edits: Sequence[EditCase],
    chosen: Mapping[str, SettingScores],
    rows: Sequence[SettingRow],
    results: Path,
    draw: Callable[[Setting], None] | None = None,
) -> Image.Image:
    """Draw the edits of `shown_edits`, one per column: the source, the truth, and the result of each method.

    The results are those of the chosen settings at the first seed. Their pictures are read from the folder `results`;
    `draw` is called for a setting whose picture is missing.
    """
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
            with Image.open(results / setting.file) as opened:
                strip = opened.convert("RGB")
            boxes = [(i * width, 0, (i + 1) * width, height) for i in range(len(shown))]
            label = f"{method}\nstrength {one.strength:g}, guidance {one.guidance:g}"
            strips.append((label, [strip.crop(box) for box in boxes]))
    pictures = contact_sheet([image for _, images in strips for image in images], columns=len(shown), scale=scale)
    margin, step = 210, height * scale + 4
    sheet = Image.new("RGB", (pictures.width + margin, pictures.height), "white")
    sheet.paste(pictures, (margin, 0))
    pen = ImageDraw.Draw(sheet)
    for number, (label, _) in enumerate(strips):
        pen.text((8, 4 + number * step + step // 2 - 12), label, fill="black")
    return sheet

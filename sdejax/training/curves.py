"""A picture of the metrics of a run (extra `card`)."""

import io
from collections.abc import Sequence

from sdejax.training.console import MetricsRow


def draw_curves(rows: Sequence[MetricsRow]) -> bytes:
    """Draw a PNG of the training loss and, if the run has one, of the validation loss by noise level.

    **Raises:** `ValueError` if matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps  # pyright: ignore[reportMissingImports]
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("a card's curves need matplotlib: pip install 'sdejax[card]'") from None
    validated = [(row["step"], row["validation"]) for row in rows if "validation" in row]
    figure = Figure(figsize=(10.0 if validated else 5.0, 3.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    losses = [(row["step"], loss) for row in rows if (loss := row.get("loss")) is not None]
    panels[0].plot(*zip(*losses, strict=True), linewidth=0.6)
    panels[0].set_title("training loss")
    levels = list(validated[0][1]) if validated else []
    for number, level in enumerate(levels):
        curve = [(step, by_level[level]) for step, by_level in validated]
        colour = colormaps["viridis"](number / len(levels))
        panels[1].plot(*zip(*curve, strict=True), linewidth=1.0, marker=".", color=colour, label=level)
    if validated:
        panels[1].set_title("validation loss of the denoiser, by noise level")
        panels[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True, fontsize="small")
    for panel in panels:
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

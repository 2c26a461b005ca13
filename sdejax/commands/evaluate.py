"""`sdejax evaluate`: text edits by several methods, scored."""

import dataclasses
import json
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from sdejax.commands.options import parse_seeds

if TYPE_CHECKING:
    from sdejax.evaluation.edits import EditCase
    from sdejax.evaluation.run import Scorers
    from sdejax.model.model import Model


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Text edits by several methods over strengths, guidances and seeds: a table, curves and a sheet of pictures.

    `emoji-edits` is the benchmark whose true results are known; `edits` reads a MANIFEST: JSON lines {"image",
    "source", "target"} with optional "mask", "truth", "name" and "family", FlowEdit's yaml or PIE-Bench's
    mapping_file.json. A run that was stopped goes on where it was.
    """

    benchmark: Annotated[Positional[Literal["emoji-edits", "edits"]], tyro.conf.arg(metavar="BENCHMARK")]
    """emoji-edits or edits."""
    paths: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="[SNAPSHOT] [MANIFEST]")] = ()
    """The snapshot folder of a model with text, unless --snapshot; and for `edits` the manifest."""
    snapshot: str | None = None
    """The snapshot, where it is not the first path."""
    data: str = "data/emoji32"
    """The folder of `emoji-edits`, which `python -m train.emoji` writes."""
    images: str | None = None
    """The folder of a manifest's pictures, where they are not beside it."""
    out: str = "out/evaluate"
    """The folder to write: rows.jsonl, table.md, table.json, curves.png, sheet.png,
    and a strip of pictures a setting.
    """
    methods: str = "all"
    """Some of sync_sde, sdedit, flow_edit, cycle_diffusion, edit_friendly_inversion, ode_inversion, fire_flow,
    rf_inversion, with commas between them."""
    strengths: str = "0.3,0.45,0.6,0.8"
    """The times in (0, 1] that the edits start from."""
    guidances: str = "1,2,3"
    """Classifier-free guidance scales of the target's prompt; 1 is the prompt alone, which saves an evaluation."""
    seeds: str = "0-3"
    """Seeds such as 7, 0-3 or 0-3,8."""
    steps: int = 20
    """Solver steps, at least 1."""
    batch: int = 102
    """How many edits are computed at once."""
    limit: int | None = None
    """Take only so many edits, the first in the order of a hash of their names."""
    masked: bool = False
    """Give the manifest's masks to the methods too, not to the scores alone."""
    clip: str | None = None
    """A folder or Hub name of CLIP weights, for the CLIP score."""
    dino: str | None = None
    """A folder or Hub name of DINO or DINOv2 weights, for the similarity of images."""
    lpips: str | None = None
    """The file of torchvision's AlexNet, or "torchvision" to download it, for LPIPS."""
    json: bool = False
    """The table as one JSON object a method on standard output, for machines."""


def evaluate(command: Evaluate) -> int:
    """Run what is left of the grid, and write the report."""
    import sdejax as sj
    from sdejax.edit.methods import METHODS
    from sdejax.evaluation.figures import import_matplotlib
    from sdejax.evaluation.report import report
    from sdejax.evaluation.run import SettingGrid, draw_strip
    from sdejax.evaluation.run import evaluate as run
    from sdejax.evaluation.scores import METRICS

    grid = SettingGrid(
        tuple(METHODS) if command.methods == "all" else tuple(command.methods.split(",")),
        _numbers("strengths", command.strengths),
        _numbers("guidances", command.guidances),
        tuple(parse_seeds(command.seeds)),
        command.steps,
        command.batch,
        command.masked,
    )
    if command.limit is not None and command.limit < 2:
        raise ValueError(
            f"--limit={command.limit}: must be at least 2, one edit to choose settings on and one to report"
        )
    snapshot, manifest = _places(command)
    import_matplotlib()
    model = sj.load(snapshot)
    edits, scorers = _edits(command, manifest, model)
    _tell_unknown_words(model, edits)
    rows = run(model, edits, grid, command.out, scorers, lambda text: print(text, file=sys.stderr, flush=True))
    for line in report(edits, rows, command.out, lambda setting: draw_strip(model, edits, grid, setting, command.out)):
        if command.json:
            print(json.dumps(line))
        else:
            scores = (
                f"{METRICS[name].title} {score['mean']:.{METRICS[name].digits}f}"
                for name, score in line["scores"].items()
                if name in ("l1", "nearest", "kept", "change", "clip")
            )
            print(f"{line['method']:24} {'; '.join(scores)}")
    if not command.json:
        print(f"{len(edits)} edits in {command.out}: table.md, curves.png, sheet.png")
    return 0


def _places(command: Evaluate) -> tuple[str, str]:
    """The snapshot, and the manifest or ""; both are paths, or the snapshot is an option."""
    paths = [*([] if command.snapshot is None else [command.snapshot]), *command.paths]
    needed = ["SNAPSHOT"] if command.benchmark == "emoji-edits" else ["SNAPSHOT", "MANIFEST"]
    if len(paths) != len(needed):
        raise ValueError(f"{' '.join(paths) or 'paths'}: must be {' and '.join(needed)} of {command.benchmark}")
    return paths[0], "".join(paths[1:])


def _edits(command: Evaluate, manifest: str, model: "Model") -> tuple[list["EditCase"], "Scorers"]:
    """The edits, those of the limit, and what scores them."""
    import numpy as np

    from sdejax.evaluation.edits import read_edits, subset
    from sdejax.evaluation.metrics import Candidates
    from sdejax.evaluation.perceptual import load_clip, load_dino, load_lpips
    from sdejax.evaluation.run import Scorers

    if command.benchmark == "emoji-edits":
        from sdejax.evaluation.emoji_edits import emoji_edits, read_emoji

        images, held_out = read_emoji(command.data, model.shape)
        edits, candidates = emoji_edits(images, held_out), list(images.values())
    else:
        edits = read_edits(manifest, model.shape, command.images)
        candidates = [edit.truth for edit in edits if edit.truth is not None]
        candidates += [edit.source for edit in edits if edit.truth is not None]
    if command.limit is not None:
        edits = subset(edits, command.limit)
    return edits, Scorers(
        candidates=Candidates.of(np.stack(candidates)) if candidates else None,
        clip=load_clip(command.clip) if command.clip else None,
        dino=load_dino(command.dino) if command.dino else None,
        lpips=load_lpips(command.lpips) if command.lpips else None,
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{option}={text!r}: must be numbers with commas between them") from None


def _tell_unknown_words(model: "Model", edits: list["EditCase"]) -> None:
    """One warning for all of them, instead of one per word and setting."""
    prompts = {prompt for edit in edits for prompt in (edit.source_prompt, edit.target_prompt)}
    words = sorted({word for prompt in prompts for word in model.conditioner.unknown(prompt)})
    if words:
        few = ", ".join(map(repr, words[:5])) + (", ..." if len(words) > 5 else "")
        warnings.warn(f"the model does not know {len(words)} words of the prompts: {few}", stacklevel=2)

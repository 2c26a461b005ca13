"""`sdejax evaluate`: text edits by several methods, scored."""

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional

from sdejax.batch_invariance import batch_invariant
from sdejax.commands.arguments import parse
from sdejax.commands.seeds import parse_seeds

if TYPE_CHECKING:
    from sdejax.evaluation.edits import EditCase
    from sdejax.evaluation.report import Line
    from sdejax.evaluation.run import Scorers, SettingGrid
    from sdejax.model.model import Model


@dataclasses.dataclass(frozen=True)
class EvaluateCommand:
    """Score text edits by several methods, strengths, guidances and seeds.

    The output is a table, curves and a sheet of pictures. The same command continues a run that was stopped.

    `emoji-edits` has edits whose true results are known. `edits` reads a MANIFEST: JSON lines with "image", "source",
    "target" and optionally "mask", "truth", "name" and "family"; or FlowEdit's yaml; or PIE-Bench's mapping_file.json.
    """

    verb: ClassVar[str] = "evaluate"
    benchmark: Annotated[Positional[Literal["emoji-edits", "edits"]], tyro.conf.arg(metavar="BENCHMARK")]
    """emoji-edits or edits."""
    paths: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="[SNAPSHOT] [MANIFEST]")] = ()
    """The snapshot folder of a model with text, unless --snapshot names it; and the manifest of `edits`."""
    snapshot: str | None = None
    """The snapshot folder, if it is not the first path."""
    data: str = "data/emoji32"
    """The folder of `emoji-edits`, which `python -m train.emoji` writes."""
    images: str | None = None
    """The folder of the manifest's pictures. By default the manifest's own folder."""
    out: str = "out/evaluate"
    """The folder to write to.
    It gets rows.jsonl, table.md, table.json, curves.png, sheet.png, and a strip of pictures for each setting.
    """
    methods: str = "all"
    """Some methods, with commas between them:
    sync_sde, sdedit, flow_edit, cycle_diffusion, edit_friendly_inversion, ode_inversion, fire_flow, rf_inversion.
    """
    strengths: str = "0.3,0.45,0.6,0.8"
    """The times in (0, 1] that the edits start from."""
    guidances: str = "1,2,3"
    """The scales of classifier-free guidance for the target's prompt.
    1 is the prompt alone, which takes one evaluation instead of two.
    """
    seeds: str = "0-3"
    """Seeds, such as 7, 0-3 or 0-3,8."""
    steps: int = 20
    """The number of solver steps, at least 1."""
    batch: int = 102
    """How many edits are computed at once."""
    batch_invariant: bool = False
    """Give an edit the same bits at any --batch and on any number of CPU threads.
    It takes 1.1 to 1.5 times as long.
    """
    limit: int | None = None
    """Take only this many edits, the first in the order of a hash of their names."""
    masked: bool = False
    """Give the manifest's masks to the methods too, not only to the scores."""
    clip: str | None = None
    """A folder or Hub name of CLIP weights, for the CLIP score."""
    dino: str | None = None
    """A folder or Hub name of DINO or DINOv2 weights, for the similarity of images."""
    lpips: str | None = None
    """The file of torchvision's AlexNet, or "torchvision" to download it, for LPIPS."""
    json: bool = False
    """Print the table as JSON, for other programs: one object for each method."""

    def execute(self) -> int:
        """Run the settings that are not done, and write the report."""
        import sdejax as sj
        from sdejax.evaluation.figures import import_matplotlib
        from sdejax.evaluation.report import report
        from sdejax.evaluation.run import Setting, draw_strip, evaluate

        grid = _grid(self)
        if self.limit is not None and self.limit < 2:
            raise ValueError(
                f"--limit={self.limit}: must be at least 2, one edit to choose settings on and one to report"
            )
        snapshot, manifest = _paths(self)
        import_matplotlib()
        model = sj.load(snapshot)
        edits, scorers = _edits(self, manifest, model)
        _warn_of_unknown_words(model, edits)

        def tell(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        def draw(setting: Setting) -> None:
            draw_strip(model, edits, grid, setting, self.out)

        with batch_invariant(self.batch_invariant):
            rows = evaluate(model, edits, grid, self.out, scorers, tell)
            for line in report(edits, rows, self.out, draw):
                print(json.dumps(line) if self.json else _as_text(line))
        if not self.json:
            print(f"{len(edits)} edits in {self.out}: table.md, curves.png, sheet.png")
        return 0


def from_words(words: Sequence[str]) -> EvaluateCommand:
    """The command that these words ask for."""
    return parse(EvaluateCommand, words)


def _grid(command: EvaluateCommand) -> "SettingGrid":
    """**Raises:** `ValueError` for an option outside its range."""
    from sdejax.edit.methods import METHODS
    from sdejax.evaluation.run import SettingGrid

    return SettingGrid(
        tuple(METHODS) if command.methods == "all" else tuple(command.methods.split(",")),
        _numbers("--strengths", command.strengths),
        _numbers("--guidances", command.guidances),
        tuple(parse_seeds(command.seeds)),
        command.steps,
        command.batch,
        command.masked,
    )


def _as_text(line: "Line") -> str:
    """A method's line of the table, with a few of its scores."""
    from sdejax.evaluation.scores import METRICS

    shown = {
        name: score for name, score in line["scores"].items() if name in ("l1", "nearest", "kept", "change", "clip")
    }
    scores = (f"{METRICS[name].title} {score['mean']:.{METRICS[name].digits}f}" for name, score in shown.items())
    return f"{line['method']:24} {'; '.join(scores)}"


def _paths(command: EvaluateCommand) -> tuple[str, str]:
    """The snapshot, and the manifest or "".

    **Raises:** `ValueError` if there are too few paths or too many.
    """
    paths = [*([] if command.snapshot is None else [command.snapshot]), *command.paths]
    needed = ["SNAPSHOT"] if command.benchmark == "emoji-edits" else ["SNAPSHOT", "MANIFEST"]
    if len(paths) != len(needed):
        raise ValueError(f"{' '.join(paths) or 'paths'}: must be {' and '.join(needed)} of {command.benchmark}")
    return paths[0], "".join(paths[1:])


def _edits(command: EvaluateCommand, manifest: str, model: "Model") -> tuple[list["EditCase"], "Scorers"]:
    """The edits, at most `limit` of them, and what scores them."""
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
        raise ValueError(f"{option}={text!r}: must be numbers with commas between them") from None


def _warn_of_unknown_words(model: "Model", edits: Sequence["EditCase"]) -> None:
    """Give one warning for all words, instead of one for each word and setting."""
    prompts = {prompt for edit in edits for prompt in (edit.source_prompt, edit.target_prompt)}
    words = sorted({word for prompt in prompts for word in model.conditioner.unknown(prompt)})
    if words:
        few = ", ".join(map(repr, words[:5])) + (", ..." if len(words) > 5 else "")
        warnings.warn(f"the model does not know {len(words)} words of the prompts: {few}", stacklevel=2)

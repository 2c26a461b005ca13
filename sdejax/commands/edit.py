"""`sdejax edit`: SDEdit of a picture, or of each picture of a list."""

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from sdejax.commands.arguments import FLAT, parse
from sdejax.commands.options import FlatRun, OptionalPicture, Run, Snapshot, required
from sdejax.commands.sampler import make_sampler
from sdejax.commands.seeds import edit_seeds
from sdejax.commands.start import started

if TYPE_CHECKING:
    import jax
    import numpy as np
    from PIL import Image

    from sdejax.edit.restore import BlockMeans, Luminance
    from sdejax.jobs.edit_list import ListedEdit
    from sdejax.media.inputs import Input
    from sdejax.model.model import Model
    from sdejax.solvers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class EditCommand:
    """SDEdit: add noise to a guide up to `strength`, then solve the reverse SDE.

    More strength is more realistic, less is more faithful to the guide.
    """

    verb: ClassVar[str] = "edit"
    snapshot: Snapshot
    """A snapshot folder."""
    guide: OptionalPicture = None
    """An image of any size; the result has the same size. Must be given, except with --manifest."""
    strength: float = 0.5
    """The time in (0, 1] that the edit starts from."""
    mask: str | None = None
    """An image of the guide's size. White is edited, black is kept bit for bit, grey is edited less."""
    original: str | None = None
    """The guide before strokes were drawn on it. Only the strokes and a few pixels around them are edited."""
    paste: str | None = None
    """An image to paste on the guide, by its alpha.
    Only the pasted image and a few pixels around it are edited, unless there is a --mask.
    """
    at: str | None = None
    """The pixel X,Y for the top left corner of the pasted image, such as 12,8 or (with =) --at=-3,8."""
    scale: float = 1.0
    """The factor by which the pasted image is enlarged."""
    repeats: int = 1
    """How many times to edit. Each result is the guide of the next edit."""
    fresh_noise: bool = True
    """Give each repeat noise of its own. Otherwise all repeats have the noise of the first."""
    prompt: str = ""
    """What to edit towards, if the model has text."""
    negative: str = ""
    """With --guidance: what to guide away from."""
    guidance: float | None = None
    """The scale of classifier-free guidance for the prompt."""
    known: str | None = None
    """Keep this part of the guide at every noise level: luminance for colourisation, blocks:N for super-resolution.
    With --strength 1 the rest is made from noise alone.
    """
    keep_distance: float | None = None
    """Instead of --strength: find the largest strength whose result stays within this distance of the guide.
    The distance is the root mean squared difference of values in [-1, 1].
    """
    realism: float | None = None
    """Instead of --strength: find the smallest strength whose result has this realism, in (0, 1).
    The realism is the share of the model's own samples that are less typical of the model.
    """
    sweep: str | None = None
    """Instead of --strength: several strengths, such as 0.2,0.3,0.5, for each seed.
    The contact sheet has a row for each seed.
    """
    manifest: str | None = None
    """A list of edits: a file with one JSON object per line, with the options, the seed and the name of one edit.
    See docs/editing.md.
    """
    run: FlatRun = dataclasses.field(default=Run(), metadata=FLAT)

    def execute(self) -> int:
        """Edit the guide at each strength with each seed, or make the edits of the list."""
        seeds, sampler = edit_seeds(self.run.seeds, self.manifest), make_sampler(self.run)
        strengths = [self.strength] if self.sweep is None else parse_sweep(self.sweep)
        _check_strength_options(self)
        if self.manifest is None:
            required(self.guide, "PICTURE", "guide")
        with started(self.verb, self.snapshot, self.run):
            import sdejax as sj
            from sdejax.commands.editing import edit_manifest, edit_one

            model, editor = sj.load(self.snapshot), SDEditEditor(sampler)
            if self.manifest is not None:
                return edit_manifest(editor, self, model)
            if self.keep_distance is None and self.realism is None:
                return edit_one(
                    editor, self, model, [[_entry(self, seed, strength) for strength in strengths] for seed in seeds]
                )
            found = _find_strengths(editor, self, model, seeds)
            code = edit_one(editor, self, model, [[_entry(self, seed, strength)] for seed, strength in found.items()])
            return code if len(found) == len(seeds) else 2


def from_words(words: Sequence[str]) -> EditCommand:
    """The command that these words ask for."""
    return parse(EditCommand, words)


@dataclasses.dataclass(frozen=True)
class SDEditEditor:
    """SDEdit, or restoration if something of the guide is `known`: an `Editor` of `sdejax.commands.editing`."""

    files: ClassVar[Sequence[str]] = ("guide", "mask", "original", "paste")
    shared: ClassVar[Sequence[str]] = ("strength", "guidance", "repeats", "fresh_noise", "known")
    sampler: "Sampler"

    def check(self, command: EditCommand, model: "Model") -> None:
        """**Raises:** `ValueError` if an option is wrong."""
        from sdejax.edit.checks import check_strength

        required(command.guide, "guide", "guide")
        check_strength(command.strength)
        if not 1 <= command.repeats < 2**31:
            raise ValueError(f"repeats={command.repeats}: must be a whole number of at least 1")
        model.denoiser(command.prompt, command.guidance, command.negative)
        if command.known is None:
            return
        parse_known(command.known).check((1, *model.shape))
        for name, value in {"mask": command.mask, "original": command.original, "paste": command.paste}.items():
            if value is not None:
                raise ValueError(f"known={command.known!r}, {name}={value!r}: give one of them; both say what is kept")
        if command.repeats > 1:
            raise ValueError(f"known={command.known!r}, repeats={command.repeats}: repeats must be 1 with known")

    def prompt(self, command: EditCommand) -> str:
        """The prompt."""
        return command.prompt

    def open(self, command: EditCommand, shape: tuple[int, int, int]) -> "Input":
        """Read the guide, and find the mask."""
        from sdejax.media.inputs import open_input

        return open_input(
            required(command.guide, "guide", "guide"),
            shape,
            mask=command.mask,
            original=command.original,
            paste=command.paste,
            at=command.at,
            scale=command.scale,
        )

    def compute(
        self,
        model: "Model",
        commands: Sequence[EditCommand],
        images: "np.ndarray",
        masks: "np.ndarray",
        keys: "jax.Array",
    ) -> "jax.Array":
        """Edit a batch of guides."""
        import sdejax as sj
        from sdejax.commands.editing import batch_denoiser

        one = commands[0]
        prompts, negatives = [each.prompt for each in commands], [each.negative for each in commands]
        denoiser = batch_denoiser(model, prompts, one.guidance, negatives)
        if one.known is not None:
            known = parse_known(one.known)
            return sj.restore(denoiser, model.sde, images, keys, known, strength=one.strength, sampler=self.sampler)
        return sj.sdedit(
            denoiser,
            model.sde,
            images,
            keys,
            strength=one.strength,
            mask=masks,
            repeats=one.repeats,
            fresh_noise=one.fresh_noise,
            sampler=self.sampler,
        )

    def finish(self, given: "Input", result: "np.ndarray") -> "Image.Image":
        """The result in place of the guide, except for the pixels that the mask keeps."""
        return given.replaced(result)


def _entry(command: EditCommand, seed: int, strength: float) -> "ListedEdit[EditCommand]":
    """The edit with one seed at one strength. In a sweep its name tells the strength."""
    from sdejax.jobs.edit_list import ListedEdit

    # 0.3 is written as 0.30, but 0.834 as it is: different strengths have different names.
    label = "" if command.sweep is None else f"-{max(f'{strength:.2f}', repr(strength), key=len)}"
    one = dataclasses.replace(command, strength=strength, sweep=None, keep_distance=None, realism=None)
    return ListedEdit(f"{seed:06d}{label}", seed, one)


def _check_strength_options(command: EditCommand) -> None:
    """**Raises:** `ValueError` if two options tell the strength, or one is given that a list of edits does not take."""
    options = {"--sweep": command.sweep, "--keep-distance": command.keep_distance, "--realism": command.realism}
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{', '.join(given)}: give one of them; each tells the strength")
    if given and command.manifest is not None:
        raise ValueError(f"{given[0]}: must not be given with --manifest, where each line has its strength")


def _find_strengths(
    editor: SDEditEditor, command: EditCommand, model: "Model", seeds: Sequence[int]
) -> dict[int, float]:
    """The strength for each seed that `--keep-distance` or `--realism` asks for."""
    import numpy as np

    from sdejax.commands.strength import KeepDistance, ReachRealism, find_strengths
    from sdejax.noise.keys import keys

    editor.check(command, model)
    given = editor.open(command, model.shape)
    if command.keep_distance is not None:
        goal = KeepDistance(given.image, command.keep_distance)
    else:
        assert command.realism is not None
        denoiser = model.denoiser(command.prompt, command.guidance, command.negative)
        goal = ReachRealism(denoiser, model.sde, model.shape, editor.sampler, command.realism)

    def edit(seed: int, strength: float) -> np.ndarray:
        one = dataclasses.replace(command, strength=strength)
        return np.asarray(editor.compute(model, [one], given.image[None], given.mask[None], keys([seed])))[0]

    return find_strengths(goal, edit, seeds)


def parse_known(text: str) -> "BlockMeans | Luminance":
    """The projection that "luminance" or "blocks:4" names.

    **Raises:** `ValueError` for any other text.
    """
    from sdejax.edit.restore import BlockMeans, Luminance

    match = re.fullmatch(r"blocks:(\d{1,4})", text)
    if text != "luminance" and not match:
        raise ValueError(f"known={text!r}: must be luminance or blocks:N, such as blocks:4")
    return BlockMeans(int(match[1])) if match else Luminance()


def parse_sweep(text: str) -> list[float]:
    """The strengths of "0.2,0.3".

    **Raises:** `ValueError` for any other text, for strengths outside (0, 1], and if two are equal.
    """
    try:
        strengths = [float(part) for part in text.split(",")]
    except ValueError:
        strengths = []
    if not strengths or not all(0.0 < strength <= 1.0 for strength in strengths):
        raise ValueError(f"--sweep={text!r}: must be strengths in (0, 1], such as 0.2,0.3,0.5")
    if len(set(strengths)) < len(strengths):
        raise ValueError(f"--sweep={text!r}: must be different strengths")
    return strengths

"""`sdejax edit`: SDEdit on a picture, or on each of a manifest."""

import dataclasses

from sdejax.arguments import FLAT
from sdejax.commands.run import OptionalPicture, Run, RunOptions, Snapshot, check_present, make_sampler, parse_seeds


@dataclasses.dataclass(frozen=True)
class Edit:
    """SDEdit: noise on a guide up to `strength`, then the reverse SDE. More is more realistic, less more faithful."""

    snapshot: Snapshot
    """A snapshot folder."""
    guide: OptionalPicture = None
    """An image of any size; the result has its size. Optional with --manifest."""
    strength: float = 0.5
    """The time in (0, 1] that the edit starts from."""
    mask: str | None = None
    """An image of the guide's size: white is edited, black is kept bit for bit, grey is edited less."""
    original: str | None = None
    """The guide before strokes were drawn on it: only they are edited, and a few pixels around them."""
    paste: str | None = None
    """An image to paste on the guide, by its alpha: only it is edited, and a few pixels around it, unless --mask."""
    at: str | None = None
    """Where: the pixel X,Y of the pasted image's top left corner, such as 12,8 or (with =) --at=-3,8."""
    scale: float = 1.0
    """By how much the pasted image is enlarged."""
    repeats: int = 1
    """How often the result is fed back as the guide."""
    prompt: str = ""
    """What to edit towards, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    sweep: str | None = None
    """Strengths in place of --strength, such as 0.2,0.3,0.5: each seed at each of them, a row of the sheet per seed."""
    manifest: str | None = None
    """A file with one JSON object per line: the options of one edit, its seed and its name. See docs/editing.md."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def edit(command: Edit) -> int:
    """Edit the guide once for each seed and strength, or what the manifest says."""
    import sdejax as sj
    from sdejax.edit.coupled import check_strength
    from sdejax.edits import Editor, edit_manifest, edit_one, prompts
    from sdejax.inputs import Input, open_input
    from sdejax.manifest import Entry

    seeds, sampler = parse_seeds(command.run.seeds, one=command.manifest is not None), make_sampler(command.run)
    strengths = [command.strength] if command.sweep is None else parse_sweep(command.sweep)
    if command.manifest is None:
        check_present(command, {"guide": "PICTURE"})
    elif command.sweep is not None:
        raise ValueError(f"--sweep={command.sweep!r}: is for one picture; in a manifest each line has its strength")

    def check(one: Edit, model: sj.Model) -> None:
        check_present(one, {"guide": "guide"})
        check_strength(one.strength)
        if not 1 <= one.repeats < 2**31:
            raise ValueError(f"repeats={one.repeats}: must be a whole number of at least 1")
        model.denoiser(one.prompt, one.guidance)

    def open_(one: Edit, shape: tuple[int, int, int]) -> Input:
        how = {"mask": one.mask, "original": one.original, "paste": one.paste, "at": one.at}
        return open_input(one.guide or "", shape, **how, scale=one.scale)

    def compute(model, ones, images, masks, seeds):
        return sj.sdedit(
            model.denoiser(prompts(model, [one.prompt for one in ones]), ones[0].guidance),
            model.sde,
            images,
            sj.keys(seeds),
            strength=ones[0].strength,
            mask=masks,
            repeats=ones[0].repeats,
            sampler=sampler,
        )

    files, shared = ("guide", "mask", "original", "paste"), ("strength", "guidance", "repeats")
    editor = Editor(files, shared, check, open_, compute, lambda given: given.replaced)
    model = sj.load(command.snapshot)
    if command.manifest is not None:
        return edit_manifest(editor, command, model)

    def entry(seed: int, strength: float) -> Entry:
        # 0.3 is 0.30, and 0.834 stays 0.834: other strengths have other names.
        label = "" if command.sweep is None else f"-{max(f'{strength:.2f}', repr(strength), key=len)}"
        return Entry(f"{seed:06d}{label}", seed, dataclasses.replace(command, strength=strength, sweep=None))

    return edit_one(editor, command, model, [[entry(seed, strength) for strength in strengths] for seed in seeds])


def parse_sweep(text: str) -> list[float]:
    """ "0.2,0.3" to strengths.

    **Raises:** `ValueError` for anything else, for strengths outside (0, 1], and for one that is there twice.
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

"""`sdejax edit`: SDEdit on a picture, or on each of a manifest."""

import dataclasses
import re
from typing import TYPE_CHECKING

from sdejax.commands.arguments import FLAT
from sdejax.commands.options import (
    OptionalPicture,
    Run,
    RunOptions,
    Snapshot,
    check_present,
    make_sampler,
    parse_seeds,
    start,
)

if TYPE_CHECKING:
    from sdejax.edit.restore import BlockMeans, Luminance


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
    """How often an image is edited: the result is fed back as the guide."""
    fresh_noise: bool = True
    """Whether each repeat has noise of its own, or all have that of the first."""
    prompt: str = ""
    """What to edit towards, for a model with text."""
    negative: str = ""
    """What to guide away from, with --guidance."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    known: str | None = None
    """What of the guide is kept at every noise level: luminance (colourisation) or blocks:N (super-resolution)."""
    keep_distance: float | None = None
    """The largest strength whose result stays within this root mean squared difference, in [-1, 1], of the guide."""
    realism: float | None = None
    """The smallest strength whose result is more typical than this share of the model's own samples, in (0, 1)."""
    sweep: str | None = None
    """Strengths in place of --strength, such as 0.2,0.3,0.5: each seed at each of them, a row of the sheet per seed."""
    manifest: str | None = None
    """A file with one JSON object per line: the options of one edit, its seed and its name. See docs/editing.md."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def edit(command: Edit) -> int:
    """Edit the guide once for each seed and strength, or what the manifest says."""
    seeds, sampler = parse_seeds(command.run.seeds, one=command.manifest is not None), make_sampler(command.run)
    seeds = list(dict.fromkeys(seeds))  # one that is given twice is one image
    strengths = [command.strength] if command.sweep is None else parse_sweep(command.sweep)
    wishes = {"--sweep": command.sweep, "--keep-distance": command.keep_distance, "--realism": command.realism}
    wished = [f"{name}={value}" for name, value in wishes.items() if value is not None]
    if len(wished) > 1:
        raise ValueError(f"{', '.join(wished)}: each says what the strength is; give one of them")
    if command.manifest is None:
        check_present(command, {"guide": "PICTURE"})
    elif wished:
        raise ValueError(f"{wished[0]}: is for one picture; in a manifest each line has its strength")
    start(command)

    import sdejax as sj
    from sdejax.commands.editing import Editor, denoiser, edit_manifest, edit_one
    from sdejax.commands.strength import find_strength
    from sdejax.edit.pair import check_strength
    from sdejax.jobs.edit_list import ListedEdit
    from sdejax.media.inputs import Input, open_input

    def check(one: Edit, model: sj.Model) -> None:
        check_present(one, {"guide": "guide"})
        check_strength(one.strength)
        if not 1 <= one.repeats < 2**31:
            raise ValueError(f"repeats={one.repeats}: must be a whole number of at least 1")
        model.denoiser(one.prompt, one.guidance, one.negative)
        if one.known is not None:
            parse_known(one.known).check((1, *model.shape))
            masks = {"mask": one.mask, "original": one.original, "paste": one.paste}
            for name, value in masks.items():
                if value is not None:
                    raise ValueError(f"known={one.known!r}, {name}={value!r}: give one of them; both say what is kept")
            if one.repeats > 1:
                raise ValueError(f"known={one.known!r}, repeats={one.repeats}: what is known is restored once")

    def open_(one: Edit, shape: tuple[int, int, int]) -> Input:
        how = {"mask": one.mask, "original": one.original, "paste": one.paste, "at": one.at}
        return open_input(one.guide or "", shape, **how, scale=one.scale)

    def denoiser_of(model, ones):
        return denoiser(model, [one.prompt for one in ones], ones[0].guidance, [one.negative for one in ones])

    def compute(model, ones, images, masks, keys):
        one = ones[0]
        how = {"strength": one.strength, "sampler": sampler}
        if one.known is not None:
            return sj.restore(denoiser_of(model, ones), model.sde, images, keys, parse_known(one.known), **how)
        how |= {"mask": masks, "repeats": one.repeats, "fresh_noise": one.fresh_noise}
        return sj.sdedit(denoiser_of(model, ones), model.sde, images, keys, **how)

    files, shared = ("guide", "mask", "original", "paste"), ("strength", "guidance", "repeats", "fresh_noise", "known")
    editor = Editor(files, shared, check, open_, compute, lambda given: given.replaced)
    model = sj.load(command.snapshot)
    if command.manifest is not None:
        return edit_manifest(editor, command, model)

    def entry(seed: int, strength: float) -> ListedEdit[Edit]:
        # 0.3 is 0.30, and 0.834 stays 0.834: other strengths have other names.
        found = dataclasses.replace(command, strength=strength, sweep=None, keep_distance=None, realism=None)
        label = "" if command.sweep is None else f"-{max(f'{strength:.2f}', repr(strength), key=len)}"
        return ListedEdit(f"{seed:06d}{label}", seed, found)

    if command.keep_distance is not None or command.realism is not None:
        found = find_strength(editor, command, model, seeds, sampler)
        code = edit_one(editor, command, model, [[entry(seed, strength)] for seed, strength in found.items()])
        return code if len(found) == len(seeds) else 2
    return edit_one(editor, command, model, [[entry(seed, strength) for strength in strengths] for seed in seeds])


def parse_known(text: str) -> "BlockMeans | Luminance":
    """ "luminance" or "blocks:4".

    **Raises:** `ValueError` for anything else.
    """
    from sdejax.edit.restore import BlockMeans, Luminance

    match = re.fullmatch(r"blocks:(\d{1,4})", text)
    if text != "luminance" and not match:
        raise ValueError(f"known={text!r}: must be luminance or blocks:N, such as blocks:4")
    return BlockMeans(int(match[1])) if match else Luminance()


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

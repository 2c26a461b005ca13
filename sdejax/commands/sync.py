"""`sdejax sync`: sync-SDE on a picture, or on each of a manifest."""

import dataclasses

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


@dataclasses.dataclass(frozen=True)
class Sync:
    """sync-SDE: edit an image by what two prompts differ in, and keep the rest."""

    snapshot: Snapshot
    """A snapshot folder of a model with text."""
    image: OptionalPicture = None
    """An image of any size; the result has its size. Optional with --manifest."""
    source: str | None = None
    """What the image shows. Needed, but for --manifest."""
    target: str | None = None
    """What it should show. Needed, but for --manifest."""
    method: str = "sync_sde"
    """sync_sde, or another to compare with: sdedit (of the target), flow_edit, cycle_diffusion,
    edit_friendly_inversion, ode_inversion, fire_flow or rf_inversion (its source is unconditional)."""
    strength: float = 0.8
    """The time in (0, 1] that the edit starts from; more changes more."""
    mask: str | None = None
    """An image of the image's size: white is edited, black is kept bit for bit, grey is edited less."""
    source_negative: str = ""
    """What to guide the source away from, with --source-guidance."""
    target_negative: str = ""
    """What to guide the target away from, with --target-guidance."""
    source_guidance: float | None = None
    """Classifier-free guidance scale for the source."""
    target_guidance: float | None = None
    """Classifier-free guidance scale for the target."""
    coupling: str = "synchronous"
    """synchronous, resampled, resampled(N), independent, correlated(RHO) or reflection."""
    manifest: str | None = None
    """A file with one JSON object per line: the options of one edit, its seed and its name. See docs/editing.md."""
    run: RunOptions = dataclasses.field(default=Run(grid="log_snr"), metadata=FLAT)


def sync(command: Sync) -> int:
    """Edit the image once for each seed, or what the manifest says."""
    seeds, sampler = parse_seeds(command.run.seeds, one=command.manifest is not None), make_sampler(command.run)
    seeds = list(dict.fromkeys(seeds))  # one that is given twice is one image
    if command.manifest is None:
        check_present(command, {"image": "PICTURE", "source": "--source", "target": "--target"})
    start(command)

    import sdejax as sj
    from sdejax.commands.editing import Editor, denoiser, edit_manifest, edit_one
    from sdejax.edit.methods import METHODS
    from sdejax.edit.pair import check_strength
    from sdejax.jobs.edit_list import ListedEdit
    from sdejax.media.inputs import open_input

    def check(one: Sync, model: sj.Model) -> None:
        check_present(one, {"image": "image", "source": "source", "target": "target"})
        check_strength(one.strength)
        sj.Coupling.parse(one.coupling)
        _check_method(one)
        model.denoiser(one.source, one.source_guidance, one.source_negative)
        model.denoiser(one.target, one.target_guidance, one.target_negative)

    def compute(model, ones, images, masks, keys):
        one, method = ones[0], METHODS[ones[0].method]
        source = denoiser(model, [each.source for each in ones], one.source_guidance, [e.source_negative for e in ones])
        target = denoiser(model, [each.target for each in ones], one.target_guidance, [e.target_negative for e in ones])
        given = (source if method.prompted else model.denoiser(), target, model.sde, images, keys)
        how = {"strength": one.strength, "mask": masks}
        if one.method == "sync_sde":
            return sj.sync_sde(*given, **how, sampler=sampler, coupling=one.coupling)
        return method.edit(*given, **how, sampler=sampler)

    editor = Editor(
        files=("image", "mask"),
        shared=("method", "strength", "source_guidance", "target_guidance", "coupling"),
        check=check,
        open=lambda one, shape: open_input(one.image or "", shape, mask=one.mask),
        compute=compute,
        finish=lambda given: given.changed,
    )
    model = sj.load(command.snapshot)
    if command.manifest is not None:
        return edit_manifest(editor, command, model)
    return edit_one(editor, command, model, [[ListedEdit(f"{seed:06d}", seed, command)] for seed in seeds])


def _check_method(one: Sync) -> None:
    """**Raises:** `ValueError` for a method that there is not, or an option that the method fixes."""
    from sdejax.edit.methods import METHODS

    if one.method not in METHODS:
        raise ValueError(f"method={one.method!r}: must be one of {', '.join(METHODS)}")
    if one.method != "sync_sde":
        given, usual = {**vars(one.run), "coupling": one.coupling}, {**vars(Run()), "coupling": Sync.coupling}
        for name in ("coupling", "order", "solver", "tolerance", "stochasticity", "corrector"):
            if given[name] != usual[name]:
                raise ValueError(f"{name}={given[name]!r}: is for method=sync_sde; {one.method} fixes it")

"""`sdejax sync`: sync-SDE on a picture, or on each of a manifest."""

import dataclasses

from sdejax.arguments import FLAT
from sdejax.commands.run import OptionalPicture, Run, RunOptions, Snapshot, check_present, make_sampler, parse_seeds


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
    strength: float = 0.8
    """The time in (0, 1] that the edit starts from; more changes more."""
    mask: str | None = None
    """An image of the image's size: white is edited, black is kept bit for bit, grey is edited less."""
    source_guidance: float | None = None
    """Classifier-free guidance scale for the source."""
    target_guidance: float | None = None
    """Classifier-free guidance scale for the target."""
    coupling: str = "synchronous"
    """synchronous, resampled, resampled(N), independent, correlated(RHO) or reflection."""
    manifest: str | None = None
    """A file with one JSON object per line: the options of one edit, its seed and its name. See docs/editing.md."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def sync(command: Sync) -> int:
    """Edit the image once for each seed, or what the manifest says."""
    import sdejax as sj
    from sdejax.commands.editing import Editor, edit_manifest, edit_one, prompts
    from sdejax.edit.coupled import check_strength
    from sdejax.inputs import open_input
    from sdejax.manifest import Entry

    seeds, sampler = parse_seeds(command.run.seeds, one=command.manifest is not None), make_sampler(command.run)
    if command.manifest is None:
        check_present(command, {"image": "PICTURE", "source": "--source", "target": "--target"})

    def check(one: Sync, model: sj.Model) -> None:
        check_present(one, {"image": "image", "source": "source", "target": "target"})
        check_strength(one.strength)
        sj.Coupling.parse(one.coupling)
        model.denoiser(one.source, one.source_guidance)
        model.denoiser(one.target, one.target_guidance)

    def compute(model, ones, images, masks, seeds):
        return sj.sync_sde(
            model.denoiser(prompts(model, [one.source for one in ones]), ones[0].source_guidance),
            model.denoiser(prompts(model, [one.target for one in ones]), ones[0].target_guidance),
            model.sde,
            images,
            sj.keys(seeds),
            strength=ones[0].strength,
            mask=masks,
            sampler=sampler,
            coupling=ones[0].coupling,
        )

    editor = Editor(
        files=("image", "mask"),
        shared=("strength", "source_guidance", "target_guidance", "coupling"),
        check=check,
        open=lambda one, shape: open_input(one.image or "", shape, mask=one.mask),
        compute=compute,
        finish=lambda given: given.changed,
    )
    model = sj.load(command.snapshot)
    if command.manifest is not None:
        return edit_manifest(editor, command, model)
    return edit_one(editor, command, model, [[Entry(f"{seed:06d}", seed, command)] for seed in seeds])

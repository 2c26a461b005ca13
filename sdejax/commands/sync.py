"""`sdejax sync`: sync-SDE of a picture, or of each picture of a list."""

import dataclasses
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

    from sdejax.media.inputs import Input
    from sdejax.model.model import Model
    from sdejax.solvers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class SyncCommand:
    """sync-SDE: edit an image by what two prompts differ in, and keep the rest."""

    verb: ClassVar[str] = "sync"
    snapshot: Snapshot
    """A snapshot folder of a model with text."""
    image: OptionalPicture = None
    """An image of any size; the result has the same size. Must be given, except with --manifest."""
    source: str | None = None
    """What the image shows. Must be given, except with --manifest."""
    target: str | None = None
    """What the image should show. Must be given, except with --manifest."""
    method: str = "sync_sde"
    """sync_sde, or a method to compare it with:
    sdedit (of the target), flow_edit, cycle_diffusion, edit_friendly_inversion, ode_inversion, fire_flow
    or rf_inversion (of an unconditional source).
    """
    strength: float = 0.8
    """The time in (0, 1] that the edit starts from. More changes more."""
    mask: str | None = None
    """A mask of the image's size. White is edited, black is kept bit for bit, grey is edited less."""
    source_negative: str = ""
    """With --source-guidance: what to guide the source away from."""
    target_negative: str = ""
    """With --target-guidance: what to guide the target away from."""
    source_guidance: float | None = None
    """The scale of classifier-free guidance for the source."""
    target_guidance: float | None = None
    """The scale of classifier-free guidance for the target."""
    coupling: str = "synchronous"
    """synchronous, synchronous(N), resampled, resampled(N), independent, correlated(RHO) or reflection."""
    manifest: str | None = None
    """A list of edits: a file with one JSON object per line, with the options, the seed and the name of one edit.
    See docs/editing.md.
    """
    run: FlatRun = dataclasses.field(default=Run(grid="log_snr"), metadata=FLAT)

    def execute(self) -> int:
        """Edit the image with each seed, or make the edits of the list."""
        seeds, sampler = edit_seeds(self.run.seeds, self.manifest), make_sampler(self.run)
        if self.manifest is None:
            required(self.image, "PICTURE", "image")
            required(self.source, "--source", "source")
            required(self.target, "--target", "target")
        with started(self.verb, self.snapshot, self.run):
            import sdejax as sj
            from sdejax.commands.editing import edit_manifest, edit_one
            from sdejax.jobs.edit_list import ListedEdit

            model, editor = sj.load(self.snapshot), SyncEditor(sampler)
            if self.manifest is not None:
                return edit_manifest(editor, self, model)
            return edit_one(editor, self, model, [[ListedEdit(f"{seed:06d}", seed, self)] for seed in seeds])


def from_words(words: Sequence[str]) -> SyncCommand:
    """The command that these words ask for."""
    return parse(SyncCommand, words)


@dataclasses.dataclass(frozen=True)
class SyncEditor:
    """Edits by two prompts, by any of `sdejax.edit.methods`: an `Editor` of `sdejax.commands.editing`."""

    files: ClassVar[Sequence[str]] = ("image", "mask")
    shared: ClassVar[Sequence[str]] = ("method", "strength", "source_guidance", "target_guidance", "coupling")
    sampler: "Sampler"

    def check(self, command: SyncCommand, model: "Model") -> None:
        """**Raises:** `ValueError` if an option is wrong."""
        import sdejax as sj
        from sdejax.edit.checks import check_strength

        required(command.image, "image", "image")
        source, target = required(command.source, "source", "source"), required(command.target, "target", "target")
        check_strength(command.strength)
        sj.Coupling.parse(command.coupling)
        _check_method(command)
        model.denoiser(source, command.source_guidance, command.source_negative)
        model.denoiser(target, command.target_guidance, command.target_negative)

    def prompt(self, command: SyncCommand) -> str:
        """The target's prompt."""
        return command.target or ""

    def open(self, command: SyncCommand, shape: tuple[int, int, int]) -> "Input":
        """Read the image and the mask."""
        from sdejax.media.inputs import open_input

        return open_input(required(command.image, "image", "image"), shape, mask=command.mask)

    def compute(
        self,
        model: "Model",
        commands: Sequence[SyncCommand],
        images: "np.ndarray",
        masks: "np.ndarray",
        keys: "jax.Array",
    ) -> "jax.Array":
        """Edit a batch of images."""
        import sdejax as sj
        from sdejax.commands.editing import batch_denoiser
        from sdejax.edit.methods import METHODS

        one, method = commands[0], METHODS[commands[0].method]
        sources, targets = [each.source or "" for each in commands], [each.target or "" for each in commands]
        source_negatives = [each.source_negative for each in commands]
        target_negatives = [each.target_negative for each in commands]
        source = batch_denoiser(model, sources, one.source_guidance, source_negatives)
        target = batch_denoiser(model, targets, one.target_guidance, target_negatives)
        given = (source if method.prompted else model.denoiser(), target, model.sde, images, keys)
        if one.method == "sync_sde":
            coupling, sampler = one.coupling, self.sampler
            return sj.sync_sde(*given, strength=one.strength, mask=masks, sampler=sampler, coupling=coupling)
        return method.edit(*given, strength=one.strength, mask=masks, sampler=self.sampler)

    def finish(self, given: "Input", result: "np.ndarray") -> "Image.Image":
        """The image with the change that the edit made."""
        return given.changed(result)


def _check_method(command: SyncCommand) -> None:
    """**Raises:** `ValueError` if there is no such method, or for an option that the method fixes."""
    from sdejax.edit.methods import METHODS

    if command.method not in METHODS:
        raise ValueError(f"method={command.method!r}: must be one of {', '.join(METHODS)}")
    if command.method == "sync_sde":
        return
    run = command.run
    options = {
        "coupling": (command.coupling, SyncCommand.coupling),
        "order": (run.order, Run.order),
        "solver": (run.solver, Run.solver),
        "tolerance": (run.tolerance, Run.tolerance),
        "stochasticity": (run.stochasticity, Run.stochasticity),
        "corrector": (run.corrector, Run.corrector),
    }
    for name, (value, default) in options.items():
        if value != default:
            raise ValueError(f"{name}={value!r}: is an option of method=sync_sde; {command.method} fixes it")

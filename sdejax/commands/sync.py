"""`sdejax sync`: sync-SDE on a picture."""

import dataclasses

from sdejax.arguments import FLAT
from sdejax.commands.run import Picture, Run, RunOptions, Snapshot, make_sampler, parse_seeds


@dataclasses.dataclass(frozen=True)
class Sync:
    """sync-SDE: edit an image by what two prompts differ in, and keep the rest."""

    snapshot: Snapshot
    """A snapshot folder of a model with text."""
    image: Picture
    """An image of any size; the result has its size."""
    source: str
    """What the image shows."""
    target: str
    """What it should show."""
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
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def sync(command: Sync) -> int:
    """Edit the image once for each seed."""
    import sdejax as sj
    from sdejax.produce import Group, Input, Task, produce

    seeds, sampler = parse_seeds(command.run.seeds), make_sampler(command.run)
    model = sj.load(command.snapshot)
    source = model.denoiser(command.source, command.source_guidance)
    target = model.denoiser(command.target, command.target_guidance)
    given = Input(command.image, command.mask, model.shape)

    def compute(tasks: list[Task]):
        return sj.sync_sde(
            source,
            target,
            model.sde,
            given.image,
            sj.keys(task.seed for task in tasks),
            strength=command.strength,
            mask=given.mask,
            sampler=sampler,
            coupling=command.coupling,
        )

    tasks = [Task(f"{seed:06d}", seed, given.changed) for seed in seeds]
    return produce(command, model, [Group(tasks, compute)], given.shown)

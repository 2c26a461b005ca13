"""`sdejax edit`: SDEdit on a picture."""

import dataclasses

from sdejax.arguments import FLAT
from sdejax.commands.run import Picture, Run, RunOptions, Snapshot, make_sampler, parse_seeds


@dataclasses.dataclass(frozen=True)
class Edit:
    """SDEdit: noise on a guide up to `strength`, then the reverse SDE. More is more realistic, less more faithful."""

    snapshot: Snapshot
    """A snapshot folder."""
    guide: Picture
    """An image of any size; the result has its size."""
    strength: float = 0.5
    """The time in (0, 1] that the edit starts from."""
    mask: str | None = None
    """An image of the guide's size: white is edited, black is kept bit for bit, grey is edited less."""
    repeats: int = 1
    """How often the result is fed back as the guide."""
    prompt: str = ""
    """What to edit towards, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def edit(command: Edit) -> int:
    """Edit the guide once for each seed."""
    import sdejax as sj
    from sdejax.produce import Group, Input, Task, produce

    seeds, sampler = parse_seeds(command.run.seeds), make_sampler(command.run)
    model = sj.load(command.snapshot)
    denoiser = model.denoiser(command.prompt, command.guidance)
    guide = Input(command.guide, command.mask, model.shape)

    def compute(tasks: list[Task]):
        return sj.sdedit(
            denoiser,
            model.sde,
            guide.image,
            sj.keys(task.seed for task in tasks),
            strength=command.strength,
            mask=guide.mask,
            repeats=command.repeats,
            sampler=sampler,
        )

    tasks = [Task(f"{seed:06d}", seed, guide.replaced) for seed in seeds]
    return produce(command, model, [Group(tasks, compute)], guide.shown)

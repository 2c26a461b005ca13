"""`sdejax sample`: images from noise."""

import dataclasses

from sdejax.arguments import FLAT
from sdejax.commands.run import Run, RunOptions, Snapshot, make_sampler, parse_seeds


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images from noise."""

    snapshot: Snapshot
    """A snapshot folder."""
    prompt: str = ""
    """What to draw, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def sample(command: Sample) -> int:
    """Draw one image for each seed."""
    import sdejax as sj
    from sdejax.images import to_image
    from sdejax.produce import Group, Task, produce

    seeds, sampler = parse_seeds(command.run.seeds), make_sampler(command.run)
    model = sj.load(command.snapshot)
    denoiser = model.denoiser(command.prompt, command.guidance)

    def compute(tasks: list[Task]):
        return sj.sample(denoiser, model.sde, sj.keys(task.seed for task in tasks), model.shape, sampler=sampler)

    tasks = [Task(f"{seed:06d}", seed, to_image) for seed in seeds]
    return produce(command, model, [Group(tasks, compute)], [])

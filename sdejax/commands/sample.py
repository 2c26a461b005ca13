"""`sdejax sample`: images from noise."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from sdejax.commands.arguments import FLAT, parse
from sdejax.commands.options import FlatRun, Run, Snapshot
from sdejax.commands.sampler import make_sampler
from sdejax.commands.seeds import seed_ranges
from sdejax.commands.start import started
from sdejax.jobs.ranges import NumberRange, merged, total_size

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdejax.jobs.job import Job, Task
    from sdejax.model.model import Model
    from sdejax.runtime.batches import DeviceClock
    from sdejax.solvers.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class SampleCommand:
    """Draw images from noise, one for each seed."""

    verb: ClassVar[str] = "sample"
    snapshot: Snapshot
    """A snapshot folder."""
    prompt: str = ""
    """What to draw, if the model has text."""
    guidance: float | None = None
    """The scale of classifier-free guidance for the prompt."""
    run: FlatRun = dataclasses.field(default=Run(), metadata=FLAT)

    def execute(self) -> int:
        """Draw the images that the folder does not have."""
        return draw(self)


def from_words(words: Sequence[str]) -> SampleCommand:
    """The command that these words ask for."""
    return parse(SampleCommand, words)


def draw(command: SampleCommand, check_model: "Callable[[Model], None] | None" = None) -> int:
    """Draw the images. `check_model` raises `ValueError` if the snapshot does not hold the model that is wanted."""
    ranges, sampler = merged(seed_ranges(command.run.seeds)), make_sampler(command.run)
    with started(command.verb, command.snapshot, command.run):
        import warnings

        import sdejax as sj
        from sdejax.jobs.produce import produce

        model = sj.load(command.snapshot)
        if check_model is not None:
            check_model(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sj.UnknownWordWarning)  # `generate` warns about them
            # This raises an error if the prompt is wrong, before a folder is made.
            model.denoiser(command.prompt, command.guidance)
        return produce(command, model, _job(command, ranges, sampler))


def _job(command: SampleCommand, ranges: list[NumberRange], sampler: "Sampler") -> "Job[int]":
    """The seeds as tasks. The number of a task is its seed."""
    import itertools

    import sdejax as sj
    from sdejax.jobs.job import Job, Task
    from sdejax.jobs.sheet import Sheet
    from sdejax.media.images import to_image

    def tasks(numbers: NumberRange) -> "Iterator[tuple[int, Task[int]]]":
        for seed in numbers.numbers:
            yield seed, Task(f"{seed:06d}", seed, lambda seed=seed: seed, finish, prompt=command.prompt)

    def finish(_seed: int, image: "np.ndarray") -> "Image.Image":
        return to_image(image)

    def results(model: "Model", seeds: Iterator[int], batch: int, clock: "DeviceClock") -> "Iterator[np.ndarray]":
        how = {"prompt": command.prompt, "guidance": command.guidance}
        for _, images in sj.generate(model, seeds, **how, sampler=sampler, batch=batch, clock=clock):
            yield images

    first = itertools.islice((seed for one in ranges for seed in one.numbers), 256)
    sheet = Sheet([f"{seed:06d}" for seed in first])
    return Job(ranges, tasks, results, total_size(ranges), [ranges[0].first], sheet)

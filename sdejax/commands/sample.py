"""`sdejax sample`: images from noise."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from sdejax.commands.arguments import FLAT
from sdejax.commands.options import Run, RunOptions, Snapshot, make_sampler, seed_ranges, start

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from sdejax.runtime.batches import DeviceClock


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images from noise, as many as there are seeds."""

    snapshot: Snapshot
    """A snapshot folder."""
    prompt: str = ""
    """What to draw, for a model with text."""
    guidance: float | None = None
    """Classifier-free guidance scale for the prompt."""
    run: RunOptions = dataclasses.field(default=Run(), metadata=FLAT)


def sample(command: Sample, check: Callable[[Any], None] = lambda model: None) -> int:
    """Draw one image for each seed; `check` raises `ValueError` where the model is not the one that is wanted."""
    ranges, sampler = seed_ranges(command.run.seeds), make_sampler(command.run)
    start(command)

    import itertools
    import warnings

    import sdejax as sj
    from sdejax.jobs.job import Job, Task
    from sdejax.jobs.produce import produce
    from sdejax.jobs.ranges import NumberRange, merged, total_size
    from sdejax.jobs.sheet import Sheet
    from sdejax.media.images import to_image
    from sdejax.model.model import UnknownWordWarning

    model = sj.load(command.snapshot)
    check(model)
    prompted = {"prompt": command.prompt, "guidance": command.guidance}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordWarning)  # `generate` tells of words
        model.denoiser(**prompted)  # raises what is wrong with the prompt, before there is a folder

    def tasks(numbers: NumberRange) -> Iterator[tuple[int, Task[int]]]:
        for seed in numbers.numbers:
            yield seed, Task(f"{seed:06d}", seed, lambda seed=seed: seed, finish, prompt=command.prompt)

    def finish(_seed: int, image: "np.ndarray") -> "Image.Image":
        return to_image(image)

    def results(model: sj.Model, seeds: Iterator[int], batch: int, clock: "DeviceClock") -> Iterator["np.ndarray"]:
        for _, images in sj.generate(model, seeds, **prompted, sampler=sampler, batch=batch, clock=clock):
            yield images

    ranges = merged(ranges)
    first = itertools.islice((seed for one in ranges for seed in one.numbers), 256)
    sheet = Sheet([f"{seed:06d}" for seed in first])
    return produce(command, model, Job(ranges, tasks, results, total_size(ranges), [ranges[0].first], sheet))

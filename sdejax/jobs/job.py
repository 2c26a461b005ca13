"""A job: numbered tasks, each of which makes one image."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from sdejax.jobs.ranges import NumberRange
from sdejax.jobs.sheet import Sheet
from sdejax.model.model import Model
from sdejax.runtime.batches import DeviceClock

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Task(Generic[T]):
    """One image to make from inputs of type T.

    - `name`: the name of its files.
    - `open()`: reads its inputs; raises `ValueError` or `OSError` if it cannot.
    - `finish(inputs, result)`: the picture from the inputs and the computed result; raises `ValueError` if the result
      is no picture.
    - `record`: what its JSON file says that differs from the command. `prompt`: what the index of a shard says.
    """

    name: str
    seed: int
    open: Callable[[], T]
    finish: Callable[[T, np.ndarray], Image.Image]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Job(Generic[T]):
    """Numbered tasks.

    - `numbers`: the numbers of all tasks.
    - `tasks(range)`: the tasks in a range of these numbers, each with its number, in order.
    - `results(model, inputs, batch, clock)`: the results (n, *shape) of each batch of n tasks, in the order of their
      inputs. Inputs are drawn when the devices have room for them. Each device computes `batch` at once.
    - `largest`: how many tasks are computed together at most. A larger batch has no use.
    - `firsts`: the first number of each group of tasks that are computed together.
    - `sheet`: the contact sheet.
    - `failed(name, error)`: called for each task that fails. If it is None, such an error is printed. But if the very
      first image fails, the job ends with its error, because all of them might fail.
    - `identity`: what distinguishes the job from others of the same command, as JSON.
    - `unreadable`: how many more tasks there would be if their descriptions could be read. They count as failed.
    """

    numbers: Sequence[NumberRange]
    tasks: Callable[[NumberRange], Iterator[tuple[int, Task[T]]]]
    results: Callable[[Model, Iterator[T], int, DeviceClock], Iterator[np.ndarray]]
    largest: int
    firsts: Sequence[int]
    sheet: Sheet
    failed: Callable[[str, Exception], None] | None = None
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    unreadable: int = 0

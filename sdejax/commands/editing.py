"""From commands to edited images: what the verbs that edit pictures share, one picture or a manifest of them."""

import dataclasses
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from sdejax.jobs.edit_list import FailedEdits, ListedEdit, grouped, read_edit_list
from sdejax.jobs.generate import on_every_device
from sdejax.jobs.job import Job, Task
from sdejax.jobs.produce import produce
from sdejax.jobs.progress import print_error
from sdejax.jobs.provenance import FileHashes, image_identity
from sdejax.jobs.ranges import NumberRange
from sdejax.jobs.sheet import Sheet
from sdejax.media.inputs import Input
from sdejax.model.model import UnknownWordWarning
from sdejax.noise.keys import keys
from sdejax.runtime.batches import DeviceClock, chunked, in_batches
from sdejax.runtime.sharding import image_mesh, spread


@dataclasses.dataclass(frozen=True)
class Editor:
    """A verb that edits pictures. `command` below is the verb's options for one image.

    - `files`: the options that are paths of inputs, the picture's first.
    - `shared`: the options that one compiled call has one value of; images that agree in them are computed together.
    - `check(command, model)`: raises `ValueError` for options without which no picture need be opened.
    - `open(command, shape)`: reads its picture and mask.
    - `compute(model, commands, images, masks, keys)`: the edited images, (n, *shape) for n commands.
    - `finish(input)`: how a result becomes a picture.
    """

    files: Sequence[str]
    shared: Sequence[str]
    check: Callable[[Any, Any], None]
    open: Callable[[Any, tuple[int, int, int]], Input]
    compute: Callable[[Any, list[Any], Any, Any, jax.Array], Any]
    finish: Callable[[Input], Callable[[np.ndarray], Any]]


def edit_one(editor: Editor, command: Any, model: Any, rows: list[list[ListedEdit]]) -> int:
    """Edit one picture: the entries differ in seed and strength, and the sheet has a row for each of `rows`.

    A single entry per row is not a table, and is laid out as fits.
    """
    entries = [entry for row in rows for entry in row]
    for entry in entries:
        editor.check(entry.command, model)
    given = editor.open(command, model.shape)
    if len(rows[0]) == 1:
        sheet = Sheet([given.shown, *(entry.name for entry in entries)])
    else:
        cells = [cell for row in rows for cell in (given.shown, *(entry.name for entry in row))]
        sheet = Sheet(cells, len(rows[0]) + 1)
    return produce(command, model, _job(editor, command, entries, lambda _: given, sheet))


def edit_manifest(editor: Editor, command: Any, model: Any) -> int:
    """Edit what a manifest says, but for what is done already; returns 2 where an entry failed, else 0.

    Entries that agree in `editor.shared` are batched together. A batch's pictures are read when its turn comes.
    """
    # Every process reads the manifest; what is wrong with its lines is told once.
    first = jax.process_index() == 0
    failures = FailedEdits(lambda text: print_error(text) if first else None)
    entries = []
    for entry in read_edit_list(command.manifest, command, editor.files, failures):
        try:
            editor.check(entry.command, model)
            entries.append(entry)
        except ValueError as error:
            failures.add(entry.name, error)
    opened = FailedEdits(print_error)
    sheet = Sheet([entry.name for entry in entries])
    job = _job(editor, command, entries, lambda one: editor.open(one, model.shape), sheet, opened.add)
    return produce(command, model, dataclasses.replace(job, unreadable=len(failures.by_name)))


def _job(
    editor: Editor,
    command: Any,
    entries: list[ListedEdit],
    open_: Callable[[Any], Input],
    sheet: Sheet,
    failed: Callable[[str, Exception], None] | None = None,
) -> "Job[_Given]":
    """The entries as numbered tasks, those that are computed together after each other."""
    hashes, groups = FileHashes(), grouped(entries, editor.shared)
    numbered = [(entry, group) for group, members in enumerate(groups) for entry in members]

    def tasks(numbers: NumberRange) -> Iterator[tuple[int, "Task[_Given]"]]:
        for number in numbers.numbers:
            entry, group = numbered[number]
            try:
                record = {**dataclasses.asdict(entry.command), "inputs": hashes.of(entry.command, editor.files)}
            except OSError:  # an input is missing: opening it says so
                record = {}
            prompt = getattr(entry.command, "target", None) or getattr(entry.command, "prompt", "")
            yield number, Task(entry.name, entry.seed, partial(opened, entry, group), finish, record, prompt)

    def opened(entry: ListedEdit, group: int) -> _Given:
        return _Given(entry, open_(entry.command), group)

    def finish(given: _Given, result: np.ndarray) -> Image.Image:
        return editor.finish(given.input)(result)

    told = hashlib.sha256()
    for one, _ in numbered:
        options = {**image_identity(dataclasses.asdict(one.command)), **_inputs(editor, command, one.command)}
        told.update(json.dumps([one.name, one.seed, options]).encode())
    return Job(
        [NumberRange(0, len(numbered) - 1)] if numbered else [],
        tasks,
        partial(_results, editor),
        max(map(len, groups), default=1),
        list(itertools.accumulate(map(len, groups[:-1]), initial=0)) if groups else [],
        sheet,
        failed,
        {"entries": told.hexdigest(), **_inputs(editor, command, command)},
    )


def _inputs(editor: Editor, command: Any, one: Any) -> dict[str, str | None]:
    """Where the inputs of an image lie, seen from the manifest or from here: the same, however a person writes it."""
    start = os.curdir if command.manifest is None else os.path.dirname(command.manifest) or os.curdir
    paths = {name: getattr(one, name) for name in editor.files}
    return {name: None if path is None else os.path.relpath(path, start) for name, path in paths.items()}


class _Given(NamedTuple):
    """An entry, its picture and mask, and the number of the group that it is computed with."""

    entry: ListedEdit
    input: Input
    group: int


def _results(
    editor: Editor, model: Any, given: Iterator[_Given], batch: int, clock: DeviceClock
) -> Iterator[np.ndarray]:
    """The edited images, batch after batch; what differs in `editor.shared` is not in one batch."""
    mesh = image_mesh(jax.local_devices())
    size, compute = batch * mesh.size, partial(_compute, editor, on_every_device(model, mesh), mesh)
    groups = itertools.groupby(given, lambda one: one.group)
    chunks = ((chunk, compute) for _, group in groups for chunk in chunked(group, size))
    for _, results in in_batches(chunks, size, clock):
        yield results


def _compute(editor: Editor, model: Any, mesh: Mesh, given: list[_Given]) -> jax.Array:
    images = np.stack([one.input.image for one in given])
    masks = np.stack([one.input.mask for one in given])
    drawn = spread(keys(one.entry.seed for one in given), mesh)
    with warnings.catch_warnings():  # the check told of the prompts' words
        warnings.simplefilter("ignore", UnknownWordWarning)
        commands = [one.entry.command for one in given]
        # Pictures and masks of numpy: the editors check them here and spread them as the keys are.
        return editor.compute(model, commands, images, masks, drawn)


def denoiser(model: Any, texts: list[str | None], guidance: float | None, negatives: list[str]) -> Any:
    """The model's denoiser for a batch, a prompt and a negative one for each image; a model without text has none."""
    if not model.conditioner.prompted:
        return model.denoiser()
    # A prompt for each image, even where all are alike: how many differ must not compile anew.
    return model.denoiser([text or "" for text in texts], guidance, list(negatives) if guidance is not None else "")

"""What the verbs that edit pictures share: an editor, and its way through one picture or a list of edits."""

import dataclasses
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from sdejax.denoiser.protocol import Denoiser
from sdejax.jobs.command import EditingCommand
from sdejax.jobs.edit_list import FailedEdits, ListedEdit, grouped, read_edit_list
from sdejax.jobs.generate import on_every_device
from sdejax.jobs.job import Job, Task
from sdejax.jobs.produce import produce
from sdejax.jobs.progress import print_error
from sdejax.jobs.provenance import FileHashes, image_identity
from sdejax.jobs.ranges import NumberRange
from sdejax.jobs.sheet import Sheet
from sdejax.media.inputs import Input
from sdejax.model.model import Model, UnknownWordWarning
from sdejax.noise.keys import keys
from sdejax.runtime.batches import DeviceClock, chunked, in_batches
from sdejax.runtime.sharding import image_mesh, spread

C = TypeVar("C", bound=EditingCommand)
C_contra = TypeVar("C_contra", bound=EditingCommand, contravariant=True)


class Editor(Protocol[C_contra]):
    """What edits pictures. A command here is the options of one edit.

    - `files`: the options that are paths of inputs, the picture's first.
    - `shared`: the options that must be equal for edits that are computed together.
    """

    files: ClassVar[Sequence[str]]
    shared: ClassVar[Sequence[str]]

    def check(self, command: C_contra, model: Model) -> None:
        """**Raises:** `ValueError` if an option is wrong. The picture need not be opened for this."""
        ...

    def prompt(self, command: C_contra) -> str:
        """What the index of a shard says about the edit."""
        ...

    def open(self, command: C_contra, shape: tuple[int, int, int]) -> Input:
        """Read the picture and the mask, for a model of images of this shape."""
        ...

    def compute(
        self, model: Model, commands: Sequence[C_contra], images: np.ndarray, masks: np.ndarray, keys: jax.Array
    ) -> jax.Array:
        """Edit n images (n, h, w, c) by n commands that agree in `shared`, with masks (n, h, w, 1) and keys (n,)."""
        ...

    def finish(self, given: Input, result: np.ndarray) -> Image.Image:
        """The edited picture at its own size, from the result (h, w, c)."""
        ...


def edit_one(editor: Editor[C], command: C, model: Model, rows: Sequence[Sequence[ListedEdit[C]]]) -> int:
    """Edit the picture of `command`. The edits differ in seed and strength.

    The sheet has a row for each of `rows`. If each row is a single edit, the sheet has as many columns as fit.
    """
    edits = [edit for row in rows for edit in row]
    for edit in edits:
        editor.check(edit.command, model)
    given = editor.open(command, model.shape)
    if len(rows[0]) == 1:
        sheet = Sheet([given.shown, *(edit.name for edit in edits)])
    else:
        cells = [cell for row in rows for cell in (given.shown, *(edit.name for edit in row))]
        sheet = Sheet(cells, len(rows[0]) + 1)
    return produce(command, model, _Edits(editor, command, edits, lambda _: given).job(sheet))


def edit_manifest(editor: Editor[C], command: C, model: Model) -> int:
    """Make the edits of the list that `command.manifest` names, unless the folder has them.

    **Returns:** the exit code: 2 if an edit failed, else 0.
    """
    assert command.manifest is not None
    # Every process reads the list. Only the first prints what is wrong with its lines.
    first = jax.process_index() == 0
    failures = FailedEdits(lambda text: print_error(text) if first else None)
    edits: list[ListedEdit[C]] = []
    for edit in read_edit_list(command.manifest, command, editor.files, failures):
        try:
            editor.check(edit.command, model)
            edits.append(edit)
        except ValueError as error:
            failures.add(edit.name, error)
    unopened = FailedEdits(print_error)
    sheet = Sheet([edit.name for edit in edits])
    listed = _Edits(editor, command, edits, lambda one: editor.open(one, model.shape))
    job = listed.job(sheet, failed=unopened.add, unreadable=len(failures.by_name))
    return produce(command, model, job)


class _OpenEdit(NamedTuple):
    """An edit, its picture and mask, and the number of the group that it is computed with."""

    edit: ListedEdit[Any]
    input: Input
    group: int


class _Edits(Generic[C]):
    """Edits as numbered tasks. Those that are computed together follow each other."""

    def __init__(self, editor: Editor[C], command: C, edits: Sequence[ListedEdit[C]], open_input: Callable[[C], Input]):
        self._editor, self._command, self._open_input = editor, command, open_input
        self._groups = grouped(edits, editor.shared)
        self._numbered = [(edit, group) for group, members in enumerate(self._groups) for edit in members]
        self._hashes = FileHashes()

    def job(
        self, sheet: Sheet, failed: Callable[[str, Exception], None] | None = None, unreadable: int = 0
    ) -> Job[_OpenEdit]:
        """The job that makes them."""
        sizes = [len(group) for group in self._groups]
        return Job(
            [NumberRange(0, len(self._numbered) - 1)] if self._numbered else [],
            self._tasks,
            partial(_results, self._editor),
            max(sizes, default=1),
            list(itertools.accumulate(sizes[:-1], initial=0)) if sizes else [],
            sheet,
            failed,
            {"entries": self._digest(), **self._relative_paths(self._command)},
            unreadable,
        )

    def _tasks(self, numbers: NumberRange) -> Iterator[tuple[int, Task[_OpenEdit]]]:
        for number in numbers.numbers:
            edit, group = self._numbered[number]
            try:
                record = {**dataclasses.asdict(edit.command), "inputs": self._hashes.of(self._paths(edit.command))}
            except OSError:  # an input is missing; the error follows when it is opened
                record = {}
            prompt = self._editor.prompt(edit.command)
            yield number, Task(edit.name, edit.seed, partial(self._open, edit, group), self._finish, record, prompt)

    def _open(self, edit: ListedEdit[C], group: int) -> _OpenEdit:
        return _OpenEdit(edit, self._open_input(edit.command), group)

    def _finish(self, given: _OpenEdit, result: np.ndarray) -> Image.Image:
        return self._editor.finish(given.input, result)

    def _digest(self) -> str:
        """A hash of what distinguishes the edits from others."""
        found = hashlib.sha256()
        for edit, _ in self._numbered:
            options = {**image_identity(dataclasses.asdict(edit.command)), **self._relative_paths(edit.command)}
            found.update(json.dumps([edit.name, edit.seed, options]).encode())
        return found.hexdigest()

    def _paths(self, command: C) -> dict[str, str | None]:
        """The paths of the inputs, by option."""
        return {name: getattr(command, name) for name in self._editor.files}

    def _relative_paths(self, command: C) -> dict[str, str | None]:
        """The paths of the inputs, relative to the list or to the working folder, however the person wrote them."""
        manifest = self._command.manifest
        start = os.curdir if manifest is None else os.path.dirname(manifest) or os.curdir
        paths = self._paths(command)
        return {name: None if path is None else os.path.relpath(path, start) for name, path in paths.items()}


def _results(
    editor: Editor[C], model: Model, given: Iterator[_OpenEdit], batch: int, clock: DeviceClock
) -> Iterator[np.ndarray]:
    """The edited images, batch after batch. A batch has edits of one group."""
    mesh = image_mesh(jax.local_devices())
    size, compute = batch * mesh.size, partial(_compute, editor, on_every_device(model, mesh), mesh)
    groups = itertools.groupby(given, lambda one: one.group)
    chunks = ((chunk, compute) for _, group in groups for chunk in chunked(group, size))
    for _, results in in_batches(chunks, size, clock):
        yield results


def _compute(editor: Editor[C], model: Model, mesh: Mesh, given: list[_OpenEdit]) -> jax.Array:
    # The editors check numpy's images and masks without the devices, and spread them over the devices of the keys.
    images = np.stack([one.input.image for one in given])
    masks = np.stack([one.input.mask for one in given])
    drawn = spread(keys(one.edit.seed for one in given), mesh)
    with warnings.catch_warnings():  # `check` has warned about unknown words
        warnings.simplefilter("ignore", UnknownWordWarning)
        return editor.compute(model, [one.edit.command for one in given], images, masks, drawn)


def batch_denoiser(model: Model, prompts: Sequence[str], guidance: float | None, negatives: Sequence[str]) -> Denoiser:
    """The denoiser for a batch that has a prompt and a negative prompt for each image. A model without text has none.

    There is a prompt for each image even if all are equal: the number of different ones must not compile anew.
    """
    if not model.conditioner.prompted:
        return model.denoiser()
    return model.denoiser(list(prompts), guidance, list(negatives) if guidance is not None else "")

"""From commands to edited images: what the verbs that edit pictures share, one picture or a manifest of them."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.inputs import Input
from sdejax.manifest import Entry, Failures, Hashes, grouped, is_done, read_manifest
from sdejax.model import UnknownWordWarning
from sdejax.produce import Group, Sheet, Task, produce, provenance, tell


@dataclasses.dataclass(frozen=True)
class Editor:
    """A verb that edits pictures. `command` below is the verb's options for one image.

    - `files`: the options that are paths of inputs, the picture's first.
    - `shared`: the options that one compiled call has one value of; images that agree in them are computed together.
    - `check(command, model)`: raises `ValueError` for options without which no picture need be opened.
    - `open(command, shape)`: reads its picture and mask.
    - `compute(model, commands, images, masks, seeds)`: the edited images, (n, *shape) for n commands.
    - `finish(input)`: how a result becomes a picture.
    """

    files: Sequence[str]
    shared: Sequence[str]
    check: Callable[[Any, Any], None]
    open: Callable[[Any, tuple[int, int, int]], Input]
    compute: Callable[[Any, list[Any], np.ndarray, np.ndarray, list[int]], Any]
    finish: Callable[[Input], Callable[[np.ndarray], Any]]


def edit_one(editor: Editor, command: Any, model: Any, rows: list[list[Entry]]) -> int:
    """Edit one picture: the entries differ in seed and strength, and the sheet has a row for each of `rows`.

    A single entry per row is not a table, and is laid out as fits.
    """
    entries = [entry for row in rows for entry in row]
    for entry in entries:
        editor.check(entry.command, model)
    given = editor.open(command, model.shape)
    hashes = Hashes()

    def group(members: list[Entry]) -> Group:
        return _group(editor, model, [(entry, given) for entry in members], hashes)

    groups = [group(members) for members in grouped(entries, editor.shared)]
    if len(rows[0]) == 1:
        return produce(command, model, groups, [], sheet=Sheet([given.shown, *(entry.name for entry in entries)]))
    cells = [cell for row in rows for cell in (given.shown, *(entry.name for entry in row))]
    return produce(command, model, groups, [], sheet=Sheet(cells, len(rows[0]) + 1))


def edit_manifest(editor: Editor, command: Any, model: Any) -> int:
    """Edit what a manifest says, but for what is done already; returns 2 where an entry failed, else 0.

    Entries that agree in `editor.shared` are batched together. A batch's pictures are read when its turn comes.
    """
    out, hashes = Path(command.run.out), Hashes()
    failures = Failures(lambda text: tell(f"{text}\n" if sys.stderr.isatty() else text))
    entries = []
    for entry in read_manifest(command.manifest, command, editor.files, failures):
        try:
            editor.check(entry.command, model)
            entries.append(entry)
        except ValueError as error:
            failures.add(entry.name, error)
    done = {entry.name for entry in entries if _done(editor, entry, model, out, hashes)}
    if done:
        tell(f"{len(done)} of {len(entries)} images are done already" + "\n" * sys.stderr.isatty())
    # The batch is that of the whole manifest: what is left of it then runs the program that the rest ran.
    groups = grouped(entries, editor.shared)
    batch = min(command.run.batch, max(map(len, groups), default=1))

    def batches() -> Iterator[Group]:
        for members in groups:
            ready: list[tuple[Entry, Input]] = []
            for entry in (entry for entry in members if entry.name not in done):
                try:
                    given = editor.open(entry.command, model.shape)
                    hashes.of(entry.command, editor.files)
                    ready.append((entry, given))
                except (ValueError, OSError) as error:
                    failures.add(entry.name, error)
                if len(ready) == batch:
                    yield _group(editor, model, ready, hashes)
                    ready = []
            if ready:
                yield _group(editor, model, ready, hashes)

    cells = [out / f"{entry.name}.png" if entry.name in done else entry.name for entry in entries]
    total = len(entries) - len(done)
    produce(command, model, batches(), [], batch=batch, total=total, sheet=Sheet(cells), failed=failures.add)
    if failures.by_name:
        tell(f"{len(failures.by_name)} failed" + "\n" * sys.stderr.isatty())
    return 2 if failures.by_name else 0


def _group(editor: Editor, model: Any, ready: list[tuple[Entry, Input]], hashes: Hashes) -> Group:
    """One call for entries that agree in `editor.shared`."""
    by_name = {entry.name: (entry, given) for entry, given in ready}

    def compute(tasks: list[Task]) -> Any:
        chosen = [by_name[task.name] for task in tasks]
        images = np.stack([given.image for _, given in chosen])
        masks = np.stack([given.mask for _, given in chosen])
        with warnings.catch_warnings():  # the check told of the prompts' words
            warnings.simplefilter("ignore", UnknownWordWarning)
            return editor.compute(model, [entry.command for entry, _ in chosen], images, masks, [t.seed for t in tasks])

    return Group([_task(editor, entry, hashes, editor.finish(given)) for entry, given in ready], compute)


def _task(editor: Editor, entry: Entry, hashes: Hashes, finish: Callable[[np.ndarray], Any]) -> Task:
    record = {**dataclasses.asdict(entry.command), "inputs": hashes.of(entry.command, editor.files)}
    return Task(entry.name, entry.seed, finish, record)


def _done(editor: Editor, entry: Entry, model: Any, out: Path, hashes: Hashes) -> bool:
    picture = out / f"{entry.name}.png"
    try:
        if not picture.is_file():
            return False
        task = _task(editor, entry, hashes, lambda _: None)
    except OSError:  # an input is missing: opening it says so
        return False
    return is_done(picture, provenance(entry.command, model, task))


def denoiser(model: Any, texts: list[str | None], guidance: float | None, negatives: list[str]) -> Any:
    """The model's denoiser for a batch, a prompt and a negative one for each image; a model without text has none."""
    if model.vocabulary is None:
        return model.denoiser()
    # A prompt for each image, even where all are alike: how many differ must not compile anew.
    return model.denoiser([text or "" for text in texts], guidance, list(negatives) if guidance is not None else "")

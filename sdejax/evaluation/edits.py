"""Text edits for a benchmark (an image, a prompt for it, a prompt for the result), and the files that list them.

    JSON lines     {"image", "source", "target"}, optionally with "mask", "truth", "name", "family"; paths are relative
                   to the folder of the file
    FlowEdit       (Kulikov et al. 2025) a yaml list of {init_img, source_prompt, target_prompts, target_codes}
    PIE-Bench      (Ju et al. 2024) mapping_file.json with run-length masks, beside the folder annotation_images

If the size of a picture differs from the model's, the picture, its truth and its mask are padded to the model's ratio
and resized (`Placement`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sdejax.media.images import Placement, open_image, open_mask, to_array

_PIE_SIDE = 512  # the side of PIE-Bench's pictures; its masks do not state their size
_PIE_FAMILIES = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change colour",
    "change material",
    "change background",
    "change style",
)


@dataclasses.dataclass(frozen=True, eq=False)
class EditCase:
    """One edit of a benchmark. Images are (h, w, c) in [-1, 1], all of one size.

    `name` is unique among the edits. `truth` is the true result, and `mask` (h, w, 1) is 1 where the edit should change
    the image; None if they are unknown. `family` is the kind of edit. `unseen` says whether the target was held out of
    the model's training.
    """

    name: str
    source: np.ndarray
    source_prompt: str
    target_prompt: str
    truth: np.ndarray | None = None
    mask: np.ndarray | None = None
    family: str = ""
    unseen: bool | None = None


def read_edits(path: str | Path, shape: tuple[int, int, int], images: str | Path | None = None) -> list[EditCase]:
    """Read the edits that a file lists.

    **Arguments:**

    - `path`: the file. Its suffix determines the layout: .jsonl, .yaml (FlowEdit) or .json (PIE-Bench).
    - `shape`: the shape (h, w, c) of the model's images.
    - `images`: the folder of the pictures, if it differs from the one that the layout specifies.

    **Raises:** `ValueError` that names the file, the entry, and the fault.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".yaml": _flow_edit, ".yml": _flow_edit, ".json": _pie_bench}
    if path.suffix not in readers:
        raise ValueError(f"manifest={str(path)!r}: must end in .jsonl, .yaml (FlowEdit) or .json (PIE-Bench)")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"manifest={str(path)!r}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"manifest={str(path)!r}: is not text in UTF-8") from None
    edits = list(readers[path.suffix](text, path, shape, Path(images) if images is not None else None))
    if not edits:
        raise ValueError(f"manifest={str(path)!r}: has no edit")
    names = [edit.name for edit in edits]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"manifest={str(path)!r}: two edits have the name {twice!r}")
    return edits


def subset(edits: Sequence[EditCase], count: int) -> list[EditCase]:
    """At most `count` of the edits, chosen by a hash of their names, so that the choice does not depend on the order.

    The hashed text differs from that in `emoji_edits`. There, the smallest hashes of a family are chosen, so the same
    hashes would favour the largest family here.
    """
    by_hash = sorted(edits, key=lambda edit: hashlib.sha256(f"some of {edit.name}".encode()).hexdigest())
    chosen = {edit.name for edit in by_hash[:count]}
    return [edit for edit in edits if edit.name in chosen]


def _json_lines(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[EditCase]:
    folder = images or path.parent
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"manifest={str(path)!r}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: is not JSON ({error.msg})") from None
        row = _texts(row, where, ("image", "source", "target"), ("mask", "truth", "name", "family"))
        yield _read_case(
            row.get("name") or f"{number:04d}",
            folder / row["image"],
            shape,
            row["source"],
            row["target"],
            mask=folder / row["mask"] if "mask" in row else None,
            truth=folder / row["truth"] if "truth" in row else None,
            family=row.get("family", ""),
            where=where,
        )


def _flow_edit(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[EditCase]:
    try:
        import yaml
    except ImportError:
        raise ValueError("to read yaml files needs PyYAML: pip install 'sdejax[metrics]'") from None
    try:
        rows = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"manifest={str(path)!r}: is not yaml ({error})") from None
    if not isinstance(rows, list):
        raise ValueError(f"manifest={str(path)!r}: must be a list of {{init_img, source_prompt, target_prompts}}")
    for number, row in enumerate(rows, 1):
        where = f"manifest={str(path)!r}, entry {number}"
        row = row if isinstance(row, dict) else {}
        targets = row.get("target_prompts", row.get("target_prompt"))
        targets = [targets] if isinstance(targets, str) else targets
        texts = _texts(
            {"init_img": row.get("init_img", row.get("input_img")), "source_prompt": row.get("source_prompt")},
            where,
            ("init_img", "source_prompt"),
        )
        if not isinstance(targets, list) or not targets or not all(isinstance(target, str) for target in targets):
            raise ValueError(f"{where}: target_prompts must be a list of texts")
        codes = row.get("target_codes") or [str(i) for i in range(1, len(targets) + 1)]
        if len(codes) != len(targets):
            raise ValueError(f"{where}: has {len(targets)} target_prompts and {len(codes)} target_codes")
        picture = _flow_edit_picture(texts["init_img"], path.parent, images)
        for code, target in zip(codes, targets, strict=True):
            name = f"{Path(texts['init_img']).stem}/{code}"
            yield _read_case(name, picture, shape, texts["source_prompt"], target, where=where)


def _flow_edit_picture(name: str, folder: Path, images: Path | None) -> Path:
    """The path of a picture. FlowEdit's list has flowedit_data/x.png, but its data set has the file as Images/x.png."""
    if images is not None:
        return images / Path(name).name
    paths = (folder / name, folder / "Images" / Path(name).name)
    return next((path for path in paths if path.exists()), paths[0])


def _pie_bench(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[EditCase]:
    folder = images or path.parent / "annotation_images"
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"manifest={str(path)!r}: is not JSON ({error.msg}, line {error.lineno})") from None
    if not isinstance(rows, dict):
        raise ValueError(f"manifest={str(path)!r}: must be PIE-Bench's mapping of numbers to edits")
    for name, row in rows.items():
        where = f"manifest={str(path)!r}, entry {name!r}"
        row = row if isinstance(row, dict) else {}
        wanted = ("image_path", "original_prompt", "editing_prompt")
        texts = _texts({key: row.get(key) for key in wanted}, where, wanted)
        # The prompts have brackets around the words that differ.
        source, target = (texts[key].replace("[", "").replace("]", "") for key in wanted[1:])
        kind, runs = str(row.get("editing_type_id", "")), row.get("mask")
        family = _PIE_FAMILIES[int(kind)] if kind in map(str, range(len(_PIE_FAMILIES))) else kind
        picture = folder / texts["image_path"]
        yield _read_case(name, picture, shape, source, target, runs=runs, family=family, where=where)


def decode_run_lengths(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Decode a run-length mask of PIE-Bench.

    `runs` are start, length, start, length, and so on, counted along the rows.

    **Returns:** (height, width, 1), 1 where the edit should change the image. The outermost pixels are 1, as in the
    benchmark's own evaluation, because its annotations are not reliable there.

    **Raises:** `ValueError` if the numbers are not pairs, or if a run begins outside the image.
    """
    starts, lengths = np.asarray(runs[::2], int), np.asarray(runs[1::2], int)
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 0).any() or (starts > height * width).any():
        raise ValueError(f"run-length mask: must be pairs of a start within {width} x {height} pixels and a length")
    flat = np.zeros(height * width, np.float32)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = 1.0
    mask = flat.reshape(height, width, 1)
    mask[[0, -1]] = mask[:, [0, -1]] = 1.0
    return mask


def _read_case(
    name: str,
    picture: Path,
    shape: tuple[int, int, int],
    source: str,
    target: str,
    *,
    where: str,
    mask: Path | None = None,
    runs: Sequence[int] | None = None,
    truth: Path | None = None,
    family: str = "",
) -> EditCase:
    """Read the files of an edit and convert them to the model's size. `where` is the place that errors name."""
    try:
        opened = open_image(picture, shape[2])
        placement = Placement.of(opened.size, shape)

        def place(image: Image.Image) -> np.ndarray:
            array = to_array(image).reshape(opened.height, opened.width, shape[2])
            return np.clip(placement.to_model(array), -1.0, 1.0)

        full_mask = true = None
        if mask is not None:
            full_mask = open_mask(mask, opened.size)
        elif runs:
            if opened.size != (_PIE_SIDE, _PIE_SIDE):
                raise ValueError(f"its picture is {opened.width} x {opened.height}, must be {_PIE_SIDE} x {_PIE_SIDE}")
            full_mask = decode_run_lengths(runs, opened.height, opened.width)
        if truth is not None:
            true = open_image(truth, shape[2])
            if true.size != opened.size:
                raise ValueError(
                    f"truth={str(truth)!r}: is {true.width} x {true.height}, must be the image's "
                    f"{opened.width} x {opened.height}"
                )
        return EditCase(
            name,
            place(opened),
            source,
            target,
            truth=None if true is None else place(true),
            mask=None if full_mask is None else np.clip(placement.to_model(full_mask), 0.0, 1.0),
            family=family,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _texts(row: object, where: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, str]:
    """Check that `row` is a mapping from the given keys to texts, and return it without the keys that are None.

    **Raises:** `ValueError` if it is not such a mapping, or if a wanted key is missing.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: must be an object with {', '.join(wanted)}")
    if missing := [key for key in wanted if row.get(key) is None]:
        raise ValueError(f"{where}: {missing[0]} is missing")
    if unknown := [key for key in row if key not in (*wanted, *optional)]:
        raise ValueError(f"{where}: {unknown[0]!r} is not a known key; must be among {', '.join(wanted + optional)}")
    if wrong := [key for key in row if row[key] is not None and not isinstance(row[key], str)]:
        raise ValueError(f"{where}: {wrong[0]}={row[wrong[0]]!r}: must be a text")
    return {key: value for key, value in row.items() if value is not None}

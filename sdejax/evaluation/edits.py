"""Text edits to be scored: an image, what it shows, what it should show; and the files that benchmarks keep them in.

    own manifest   JSON lines {"image", "source", "target"} and, where there are, "mask", "truth", "name", "family";
                   paths are relative to the manifest's folder
    FlowEdit       (Kulikov et al. 2025) a yaml list of {init_img, source_prompt, target_prompts, target_codes}
    PIE-Bench      (Ju et al. 2024) mapping_file.json with run-length masks beside the folder annotation_images

A picture of another size than the model's is padded to its ratio and resized (`Placement`), its truth and mask with it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdejax.media.images import Placement, open_image, open_mask, to_array

_PIE_SIDE = 512  # PIE-Bench's masks say nothing of their size; its pictures are of this one
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
class Edit:
    """One edit. Images are (h, w, c) in [-1, 1], of one size; `mask` is (h, w, 1), 1 where the edit should be.

    `name` is its own among all edits, `family` the kind of edit; `unseen` says that training never saw the target.
    """

    name: str
    source: np.ndarray
    source_prompt: str
    target_prompt: str
    truth: np.ndarray | None = None
    mask: np.ndarray | None = None
    family: str = ""
    unseen: bool | None = None


def read_edits(path: str | Path, shape: tuple[int, int, int], images: str | Path | None = None) -> list[Edit]:
    """The edits of a manifest, for a model whose images are of `shape`; `.jsonl`, `.yaml` and `.json` say the layout.

    `images` is the folder of the pictures, where they are not at the place that the layout gives them.

    **Raises:** `ValueError` naming the file, the entry and what is wrong with it.
    """
    path = Path(path)
    readers = {".jsonl": _own, ".yaml": _flow_edit, ".yml": _flow_edit, ".json": _pie_bench}
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


def some_of(edits: Sequence[Edit], count: int) -> list[Edit]:
    """At most `count` of them, the first in the order of a hash of their names; they keep their order.

    A hash of its own: emoji edits are those of their family with the smallest hashes of their names alone.
    """
    by_hash = sorted(edits, key=lambda edit: hashlib.sha256(f"some of {edit.name}".encode()).hexdigest())
    taken = {edit.name for edit in by_hash[:count]}
    return [edit for edit in edits if edit.name in taken]


def _own(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[Edit]:
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
        yield _edit(
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


def _flow_edit(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[Edit]:
    try:
        import yaml
    except ImportError:
        raise ValueError("yaml files need PyYAML: pip install 'sdejax[metrics]'") from None
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
            yield _edit(name, picture, shape, texts["source_prompt"], target, where=where)


def _flow_edit_picture(given: str, folder: Path, images: Path | None) -> Path:
    """Its data set names pictures flowedit_data/x.png and hands them out as Images/x.png."""
    if images is not None:
        return images / Path(given).name
    places = (folder / given, folder / "Images" / Path(given).name)
    return next((place for place in places if place.exists()), places[0])


def _pie_bench(text: str, path: Path, shape: tuple[int, int, int], images: Path | None) -> Iterator[Edit]:
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
        # Brackets mark the words that differ.
        source, target = (texts[key].replace("[", "").replace("]", "") for key in wanted[1:])
        kind, runs = str(row.get("editing_type_id", "")), row.get("mask")
        family = _PIE_FAMILIES[int(kind)] if kind in map(str, range(len(_PIE_FAMILIES))) else kind
        yield _edit(name, folder / texts["image_path"], shape, source, target, runs=runs, family=family, where=where)


def decode_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """PIE-Bench's run-length mask as (height, width, 1), 1 where the edit should be.

    `runs` are start, length, start, length, ..., counted along rows. The outermost pixels are 1, as in the benchmark's
    own evaluation, because its annotations are not sure there.

    **Raises:** `ValueError` unless they come in pairs that begin within the image.
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


def _edit(
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
) -> Edit:
    """Read the files of one edit and bring them to the model's size."""
    try:
        opened = open_image(picture, shape[2])
        placement = Placement.of(opened.size, shape)

        def place(image: Any) -> np.ndarray:
            array = to_array(image).reshape(opened.height, opened.width, shape[2])
            return np.clip(placement.to_model(array), -1.0, 1.0)

        full_mask = true = None
        if mask is not None:
            full_mask = open_mask(mask, opened.size)
        elif runs:
            if opened.size != (_PIE_SIDE, _PIE_SIDE):
                raise ValueError(f"its picture is {opened.width} x {opened.height}, must be {_PIE_SIDE} x {_PIE_SIDE}")
            full_mask = decode_runs(runs, opened.height, opened.width)
        if truth is not None:
            true = open_image(truth, shape[2])
            if true.size != opened.size:
                raise ValueError(
                    f"truth={str(truth)!r}: is {true.width} x {true.height}, must be the image's "
                    f"{opened.width} x {opened.height}"
                )
        return Edit(
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


def _texts(row: Any, where: str, wanted: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, str]:
    """**Raises:** `ValueError` unless `row` is a mapping with those keys, all of them texts."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: must be an object with {', '.join(wanted)}")
    if missing := [key for key in wanted if row.get(key) is None]:
        raise ValueError(f"{where}: {missing[0]} is missing")
    if unknown := [key for key in row if key not in (*wanted, *optional)]:
        raise ValueError(f"{where}: {unknown[0]!r} is no key of a manifest; they are {', '.join(wanted + optional)}")
    if wrong := [key for key in row if row[key] is not None and not isinstance(row[key], str)]:
        raise ValueError(f"{where}: {wrong[0]}={row[wrong[0]]!r}: must be a text")
    return {key: value for key, value in row.items() if value is not None}

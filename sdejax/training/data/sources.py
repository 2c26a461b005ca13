"""Where images, captions and classes come from: folder trees, zip and tar files, parquet and arrow tables.

A source lists its images once, sorted by name, so that a set of images gives the same training run in every format. A
source keeps no file open except memory maps. So threads may read at the same time, and a pickled source takes its list
to another process.
"""

import dataclasses
import glob
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from sdejax.media.images import SUFFIXES
from sdejax.training.data.archives import Member, list_members
from sdejax.training.data.tables import open_tables

CAPTIONS_FILE = "captions.jsonl"
_CONTAINERS = (".tar", ".parquet", ".arrow", ".zip")  # in the order of preference if a folder holds several kinds
_ALLOWED = "a folder of images, or .zip, .tar, .parquet or .arrow files"
_COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.[^./]+)$", re.IGNORECASE)
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test"}
_HIDDEN = re.compile(r"(^|/)\.[^/]")  # .name, but not ./name


class Images(Protocol):
    """Encoded images by index.

    `names` identify the images for people. `captions` and `classes` have one text per image: its caption and the name
    of its class, or "" if it has none or none was asked for.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def captions(self) -> Sequence[str]: ...

    @property
    def classes(self) -> Sequence[str]: ...

    def read(self, index: int) -> bytes:
        """Read the encoded file. **Raises:** `OSError` or `ValueError` if it cannot be read."""
        ...


def class_names(images: Images) -> tuple[str, ...]:
    """The names of the classes of a set of images, sorted, each once; empty if the set has no classes."""
    return tuple(sorted(set(images.classes) - {""}))


@dataclasses.dataclass(frozen=True)
class FolderImages:
    """The images below a folder. Their names are their paths relative to the folder."""

    folder: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    classes: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Read the bytes of a file."""
        return Path(self.folder, self.names[index]).read_bytes()


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveImages:
    """Images in zip or tar files. Their names are ARCHIVE:PATH.

    `members` is int64 (images, 4): the number of the archive, then the fields of `Member`. An array takes a tenth of
    the memory of objects.
    """

    archives: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[str, ...]
    classes: tuple[str, ...]
    members: np.ndarray

    def read(self, index: int) -> bytes:
        """Read the bytes of a file, unpacked."""
        archive, *member = self.members[index].tolist()
        return Member(*member).read(self.archives[archive])


def open_images(
    path: str | Path,
    *,
    captioned: bool = False,
    classes: bool = False,
    image_column: str = "image",
    caption_column: str = "",
    cache: Path | None = None,
) -> Images:
    """List the images of a folder tree, of .zip, .tar, .parquet or .arrow files, or of a folder or pattern of those.

    If a folder has loose images, they are the set. Else its .tar, .parquet, .arrow or .zip files are read. Files and
    folders whose names begin with a dot are left out; links to folders are not followed.

    **Arguments:**

    - `path`: a folder, a file, or a pattern such as "shards/*.tar".
    - `captioned`: whether to read captions. They are in a captions.jsonl at the top, with an object per line that has
      `file` and `caption`. Without one, they are beside each image, in a .txt file or in a .json file with `caption`,
      whose name equals that of the image up to its last or first dot. In tables they are in a column.
    - `classes`: whether each image has a class: the name of its first folder below the root. The root is the folder
      itself. In archives it is the top, or the folder that holds all class folders, if there is such a folder.
    - `image_column`: the column of a table that holds the images.
    - `caption_column`: the column of a table that holds the captions; "" is the first of "caption" and "text".
    - `cache`: the folder for parquet files, which have no random access and are unpacked once into an arrow file; by
      default it is in the user's cache folder.

    **Raises:** `ValueError` if the path is missing, has no image, is damaged, or mixes the splits of a data set; if
    `captioned` and no image has a caption; and if `classes` and an image lies directly in the root, a folder in the
    root has no image, or the files are tables.
    """
    try:
        if not str(path):  # `Path` would take it for the current folder
            raise ValueError(f"no such file or folder; it must be {_ALLOWED}")
        images = _open_folder(Path(path), captioned, classes) if Path(path).is_dir() else None
        if images is None:
            base, files = _find_files(Path(path))
            images = _open_files(base, files, captioned, classes, image_column, caption_column, cache)
        if not images.names:
            raise ValueError(f"has no image; looked for {', '.join(sorted(SUFFIXES))}")
        if captioned and not any(images.captions):
            raise ValueError(
                f"has no captions; they must be in a {CAPTIONS_FILE}, in a .txt beside each image, or in a column"
            )
        return images
    except ValueError as error:
        raise ValueError(f"data={str(path)!r}: {error}") from None


def _open_folder(folder: Path, captioned: bool, classes: bool) -> FolderImages | None:
    """List the loose images of a folder; None if it has none, but files that hold images."""
    names = list(_walk(folder))
    images = sorted(name for name in names if _suffix(name) in SUFFIXES)
    if not images:
        if any(_suffix(name) in _CONTAINERS for name in names):
            return None
        _refuse_compressed(names)
    captions = _captions(images, set(names) if captioned else (), lambda name: (folder / name).read_bytes())
    found = _classes(images, images) if classes else ("",) * len(images)
    if classes and images:
        _refuse_empty(folder, found)
    return FolderImages(str(folder), tuple(images), captions, found)


def _find_files(path: Path) -> tuple[str, list[str]]:
    """Find the files that hold images, all of one kind: the folder that they are in, and their paths."""
    if path.is_dir():
        names = list(_walk(path))
        kind = next(kind for kind in _CONTAINERS if any(_suffix(name) == kind for name in names))
        return str(path), [str(path / name) for name in names if _suffix(name) == kind]
    files = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
    if not files:
        raise ValueError(f"no such file or folder; it must be {_ALLOWED}")
    _refuse_compressed(files)
    kind = _suffix(files[0])
    if kind not in _CONTAINERS or any(_suffix(name) != kind for name in files):
        raise ValueError(f"must be {_ALLOWED}, all of one kind")
    return os.path.commonpath([os.path.dirname(name) for name in files]), files


def _open_files(
    base: str,
    found: Sequence[str],
    captioned: bool,
    classes: bool,
    image_column: str,
    caption_column: str,
    cache: Path | None,
) -> Images:
    """List the images in archives or tables; their names call a file by its path relative to `base`."""
    titled = {os.path.relpath(file, base).replace(os.sep, "/"): file for file in found}
    titles = sorted(title for title in titled if not _is_datasets_cache(title))
    _refuse_splits(titles)
    files = [titled[title] for title in titles]
    if _suffix(found[0]) not in (".parquet", ".arrow"):
        return _open_archives(files, titles, captioned, classes)
    if classes:
        raise ValueError("classes=True: parquet and arrow files have no folders that name the classes")
    return open_tables(files, titles, image_column, caption_column if captioned else None, cache)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _walk(folder: Path) -> Iterator[str]:
    """The paths of the files below a folder, with forward slashes, without the hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(here, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        yield from (prefix + name for name in files if not name.startswith("."))


def _is_datasets_cache(name: str) -> bool:
    """Whether the file is an intermediate result, which the `datasets` library keeps beside the data."""
    return name.rpartition("/")[2].startswith("cache-") and _suffix(name) == ".arrow"


def _refuse_compressed(names: Collection[str]) -> None:
    found = next((os.path.basename(name) for name in sorted(names) if _COMPRESSED_TAR.search(name)), None)
    if found is not None:
        raise ValueError(f"{found!r} is a compressed tar file, which has no random access; unpack it to .tar")


def _refuse_splits(titles: Sequence[str]) -> None:
    """Refuse files of several splits: training on a test split by accident would spoil all later measurements."""
    words = {word for title in titles for word in re.split("[^a-z]+", title.lower())}
    if len(splits := sorted(words & _SPLITS)) > 1:
        raise ValueError(f"holds the splits {' and '.join(splits)}; name the files of one, as in '*{splits[0]}*'")


def _classes(paths: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The class of each image: the first folder of its path. Messages call the image by its name."""
    known: dict[str, str] = {}  # one string object per class keeps a pickled source small
    found = []
    for path, name in zip(paths, names, strict=True):
        folder, slash, _ = path.partition("/")
        if not slash:
            raise ValueError(
                f"classes=True: {name!r} lies directly in the root; each image must be in a folder named by its class"
            )
        found.append(known.setdefault(folder, folder))
    return tuple(found)


def _refuse_empty(root: Path, classes: Collection[str]) -> None:
    """Refuse a class folder without images, as it would train no class, or shift the numbers of the others."""
    folders = {entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")}
    if empty := sorted(folders - set(classes)):
        raise ValueError(f"classes=True: the folder {empty[0]!r} has no image; each folder must hold those of a class")


def _open_archives(archives: Sequence[str], titles: Sequence[str], captioned: bool, classes: bool) -> ArchiveImages:
    """List the images in tar or zip files, archive by archive."""
    paths: list[str] = []
    names: list[str] = []
    captions: list[str] = []
    members: list[np.ndarray] = []
    for number, (archive, title) in enumerate(zip(archives, titles, strict=True)):
        listed = list_members(archive)
        found = {name.removeprefix("./"): member for name, member in listed if not _HIDDEN.search(name)}
        images = sorted(name for name in found if _suffix(name) in SUFFIXES)
        if _suffix(archive) == ".tar":
            images = _without_other_fields(images)
        captions.extend(_captions(images, found if captioned else (), _reader(archive, found)))
        paths.extend(images)
        names.extend(f"{title}:{name}" for name in images)
        members.append(np.array([(number, *found[name]) for name in images], np.int64).reshape(-1, 4))
    labels = _classes(_below_common_folder(paths), names) if classes else ("",) * len(names)
    return ArchiveImages(tuple(archives), tuple(names), tuple(captions), labels, np.concatenate(members))


def _below_common_folder(paths: list[str]) -> list[str]:
    """The paths without the folders that hold all class folders, as in an archive that was made of a whole folder."""
    while paths:
        top = paths[0].partition("/")[0] + "/"
        if not all(path.startswith(top) and "/" in path.removeprefix(top) for path in paths):
            break
        paths = [path.removeprefix(top) for path in paths]
    return paths


def _reader(archive: str, members: dict[str, Member]) -> Callable[[str], bytes]:
    return lambda name: members[name].read(archive)


def _without_other_fields(images: Sequence[str]) -> list[str]:
    """Keep one image per sample: beside a.png, a.depth.png is another field of the sample `a`."""
    single = {name: name.count(".", name.rfind("/") + 1) == 1 for name in images}
    samples = {_sample(name) for name in images if single[name]}
    return [name for name in images if single[name] or _sample(name) not in samples]


def _sample(name: str) -> str:
    """The path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _captions(images: Sequence[str], files: Collection[str], read: Callable[[str], bytes]) -> tuple[str, ...]:
    """Read the caption of each image from the `files` beside it; "" if there is none."""
    if not images or not files:
        return ("",) * len(images)
    folders = images[0].split("/")[:-1]
    for depth in range(len(folders) + 1):  # an archive of a whole folder holds the captions file in that folder
        top = "".join(folder + "/" for folder in folders[:depth])
        if top + CAPTIONS_FILE in files and images[-1].startswith(top):
            by_file = _parse_captions_file(read(top + CAPTIONS_FILE))
            return tuple(by_file.get(name.removeprefix(top), "") for name in images)
    captions = []
    for name in images:
        stems = (os.path.splitext(name)[0], _sample(name))
        beside = next((stem + end for stem in stems for end in (".txt", ".json") if stem + end in files), "")
        captions.append(_parse_caption(beside, read(beside)) if beside else "")
    return tuple(captions)


def _parse_caption(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
        caption = json.loads(text).get("caption", "") if name.endswith(".json") else text.strip()
    except (ValueError, AttributeError):
        raise ValueError(f"{name!r} must be UTF-8 text, or an object with `caption`") from None
    return caption if isinstance(caption, str) else ""


def _parse_captions_file(data: bytes) -> dict[str, str]:
    captions = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                captions[row["file"]] = row["caption"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{CAPTIONS_FILE}, line {number}: must be an object with `file` and `caption`"
                ) from None
    return captions

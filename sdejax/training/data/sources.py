"""Where images and captions come from: folder trees, zip and tar files, parquet and arrow tables.

A source lists its images once, in the order of their names, so that one set of images trains alike in any format. It
keeps no file open but memory maps, so threads may read at once, and pickling it hands its listing to another process.
"""

import dataclasses
import glob
import json
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from sdejax.media.images import SUFFIXES
from sdejax.training.data.tables import open_tables

LISTING = "captions.jsonl"
_KINDS = (".tar", ".parquet", ".arrow", ".zip")
_ALLOWED = "a folder of images, or .zip, .tar, .parquet or .arrow files"
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.[^./]+)$", re.IGNORECASE)
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test"}
_HIDDEN = re.compile(r"(^|/)\.[^/]")  # .name, but not ./name
_TAR, _STORED, _DEFLATED = range(3)  # how a file lies in its archive


class Images(Protocol):
    """Encoded images by index, a name for each that a person finds it by, and its caption, "" where it has none."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def captions(self) -> Sequence[str]: ...

    def read(self, index: int) -> bytes:
        """The encoded file. **Raises:** `OSError` or `ValueError` where it cannot be read."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """The images below a folder; their names are their paths in it."""

    folder: str
    names: tuple[str, ...]
    captions: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return Path(self.folder, self.names[index]).read_bytes()


class Place(NamedTuple):
    """Where a file lies in an archive: the offset of its bytes (of its header in a zip), its stored size, and how."""

    offset: int
    size: int
    how: int

    def read(self, archive: str) -> bytes:
        """The bytes of the file in `archive`, unpacked."""
        with open(archive, "rb") as file:
            file.seek(self.offset)
            if self.how != _TAR:
                header = file.read(30)
                if len(header) < 30 or header[:4] != b"PK\x03\x04":
                    raise ValueError(f"{archive!r}: damaged, no header at byte {self.offset}")
                file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)  # the lengths of name and extra field
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError(f"{archive!r}: cut short, it ends within {self.size} bytes from {self.offset}")
        try:
            return zlib.decompress(data, -zlib.MAX_WBITS) if self.how == _DEFLATED else data
        except zlib.error as error:
            raise ValueError(f"{archive!r}: damaged at byte {self.offset} ({error})") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """Images inside of zip or tar files, by where their bytes lie; their names are ARCHIVE:PATH."""

    archives: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[str, ...]
    places: np.ndarray  # int64 (images, 4): the archive's number, then its Place; a tenth of the memory of objects

    def read(self, index: int) -> bytes:
        """The bytes of the file as they were before they were packed."""
        archive, *place = self.places[index].tolist()
        return Place(*place).read(self.archives[archive])


def open_images(
    path: str | Path,
    *,
    captioned: bool = False,
    image_column: str = "image",
    caption_column: str = "",
    cache: Path | None = None,
) -> Images:
    """List the images of a folder tree, of .zip, .tar, .parquet or .arrow files, or of a folder or pattern of those.

    In a folder, loose images come first: only where there are none are its .tar, .parquet, .arrow or .zip files read.
    Files and folders whose names begin with a dot are left out. Captions, where `captioned`: captions.jsonl at the
    top (an object per line with `file` and `caption`), else beside each image a .txt, or a .json with `caption`, of
    the same name up to its last or first dot; in tables `caption_column`, else "caption" or "text". Parquet has no
    random access, so it is unpacked once into an arrow file in `cache` (by default the user's cache folder).

    **Raises:** `ValueError` where the path is missing, has no image, is damaged, mixes the splits of a set, or has no
    caption though `captioned`.
    """
    try:
        if not str(path):  # which Path takes for the folder we are in
            raise ValueError(f"no such file or folder; it must be {_ALLOWED}")
        images = _open(Path(path), captioned, image_column, caption_column, cache)
        if not images.names:
            raise ValueError(f"has no image; looked for {', '.join(sorted(SUFFIXES))}")
        if captioned and not any(images.captions):
            raise ValueError(
                f"has no captions; they must be in a {LISTING}, in a .txt beside each image, or in a column"
            )
        return images
    except ValueError as error:
        raise ValueError(f"data={str(path)!r}: {error}") from None


def _open(path: Path, captioned: bool, image_column: str, caption_column: str, cache: Path | None) -> Images:
    if path.is_dir():
        listed: dict[str, list[str]] = {}
        for name in _walk(path):
            listed.setdefault(_suffix(name), []).append(name)
        images = sorted(name for suffix in SUFFIXES for name in listed.get(suffix, ()))
        kind = next((kind for kind in _KINDS if kind in listed), "")
        if images or not kind:
            names = {name for group in listed.values() for name in group}
            _refuse_compressed(() if images else names)
            captions = _captions(images, names if captioned else (), lambda name: (path / name).read_bytes())
            return Files(str(path), tuple(images), captions)
        base, found = str(path), [str(path / name) for name in listed[kind]]
    else:
        found = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)
        if not found:
            raise ValueError(f"no such file or folder; it must be {_ALLOWED}")
        _refuse_compressed(found)
        base, kind = os.path.commonpath([os.path.dirname(name) for name in found]), _suffix(found[0])
        if kind not in _KINDS or any(_suffix(name) != kind for name in found):
            raise ValueError(f"must be {_ALLOWED}, all of one kind")
    titled = {os.path.relpath(file, base).replace(os.sep, "/"): file for file in found}
    titles = sorted(title for title in titled if not _is_leftover(title))
    _refuse_splits(titles)
    files = [titled[title] for title in titles]
    if kind in (".parquet", ".arrow"):
        return open_tables(files, titles, image_column, caption_column if captioned else None, cache)
    return _open_archives(files, titles, kind, captioned)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _walk(folder: Path) -> Iterator[str]:
    """The paths of the files below a folder, with forward slashes; hidden ones are left out."""

    def fail(error: OSError) -> None:
        raise error

    for here, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = os.path.relpath(here, folder).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        yield from (prefix + name for name in files if not name.startswith("."))


def _is_leftover(name: str) -> bool:
    """Whether the `datasets` library keeps an intermediate result under that name, beside the data."""
    return name.rpartition("/")[2].startswith("cache-") and _suffix(name) == ".arrow"


def _refuse_compressed(names: Collection[str]) -> None:
    found = next((os.path.basename(name) for name in sorted(names) if _COMPRESSED.search(name)), None)
    if found is not None:
        raise ValueError(f"{found!r} is a compressed tar file, which has no random access; unpack it to .tar")


def _refuse_splits(titles: Sequence[str]) -> None:
    """To train on a test split by accident would spoil every measurement after it."""
    words = {word for title in titles for word in re.split("[^a-z]+", title.lower())}
    if len(splits := sorted(words & _SPLITS)) > 1:
        raise ValueError(f"holds the splits {' and '.join(splits)}; name the files of one, as in '*{splits[0]}*'")


def _open_archives(archives: Sequence[str], titles: Sequence[str], kind: str, captioned: bool) -> Packed:
    names: list[str] = []
    captions: list[str] = []
    places: list[np.ndarray] = []
    for number, (archive, title) in enumerate(zip(archives, titles, strict=True)):
        listed = (_zip_members if kind == ".zip" else _tar_members)(archive)
        members = {name.removeprefix("./"): place for name, place in listed if not _HIDDEN.search(name)}
        images = sorted(name for name in members if _suffix(name) in SUFFIXES)
        if kind == ".tar":
            images = _first_of_samples(images)
        captions.extend(_captions(images, members if captioned else (), _reader(archive, members)))
        names.extend(f"{title}:{name}" for name in images)
        places.append(np.array([(number, *members[name]) for name in images], np.int64).reshape(-1, 4))
    return Packed(tuple(archives), tuple(names), tuple(captions), np.concatenate(places))


def _reader(archive: str, members: dict[str, Place]) -> Callable[[str], bytes]:
    return lambda name: members[name].read(archive)


def _first_of_samples(images: Sequence[str]) -> list[str]:
    """Without the other pictures of a sample: beside a.png, a.depth.png is another field of the sample a."""
    single = {name: name.count(".", name.rfind("/") + 1) == 1 for name in images}
    keys = {_key(name) for name in images if single[name]}
    return [name for name in images if single[name] or _key(name) not in keys]


def _key(name: str) -> str:
    """The path up to the first dot of its last part."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _tar_members(archive: str) -> Iterator[tuple[str, Place]]:
    try:
        with tarfile.open(archive, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # or all headers stay in memory
                if member.isreg():
                    yield member.name, Place(member.offset_data, member.size, _TAR)
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{os.path.basename(archive)!r} is damaged, or not a tar file ({error})") from None
    with open(archive, "rb") as file:  # tarfile takes a broken header for the end
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{os.path.basename(archive)!r} is damaged, no header at byte {end}")


def _zip_members(archive: str) -> Iterator[tuple[str, Place]]:
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{os.path.basename(archive)!r} is damaged, or not a zip file ({error})") from None
    how = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in how:
            raise ValueError(f"{member.filename!r} is encrypted or packed in a rare way; pack it stored or deflated")
        yield member.filename, Place(member.header_offset, member.compress_size, how[member.compress_type])


def _captions(names: Sequence[str], listed: Collection[str], read: Callable[[str], bytes]) -> tuple[str, ...]:
    """The caption of each image from the files that are `listed` beside them; "" where there is none."""
    if not names or not listed:
        return ("",) * len(names)
    folders = names[0].split("/")[:-1]
    for depth in range(len(folders) + 1):  # a packed folder may lie inside of its archive as a folder
        top = "".join(folder + "/" for folder in folders[:depth])
        if top + LISTING in listed and names[-1].startswith(top):
            by_file = _read_listing(read(top + LISTING))
            return tuple(by_file.get(name.removeprefix(top), "") for name in names)
    captions = []
    for name in names:
        stems = (os.path.splitext(name)[0], _key(name))
        beside = next((stem + end for stem in stems for end in (".txt", ".json") if stem + end in listed), "")
        captions.append(_read_caption(beside, read(beside)) if beside else "")
    return tuple(captions)


def _read_caption(name: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
        caption = json.loads(text).get("caption", "") if name.endswith(".json") else text.strip()
    except (ValueError, AttributeError):
        raise ValueError(f"{name!r} must be UTF-8 text, or an object with `caption`") from None
    return caption if isinstance(caption, str) else ""


def _read_listing(data: bytes) -> dict[str, str]:
    captions = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                captions[row["file"]] = row["caption"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{LISTING}, line {number}: must be an object with `file` and `caption`") from None
    return captions

"""Images in files of many, tar as WebDataset has it or parquet, each with an index; and a manifest of them all.

A shard holds the images of a span of numbers (seeds, or places in a manifest of edits), which its name says.
Its index is written after it, so that a shard without one is not finished; `manifest.json` lists the finished ones.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Literal, Protocol

from sdejax.jobs.ranges import Span, merged, without
from sdejax.runtime.storage import Folder

Format = Literal["tar", "parquet"]
MANIFEST = "manifest.json"
_INDEX = re.compile(r"(\d{10})-(\d{10})\.json")
_FILES = re.compile(r"(\d{10})-(\d{10})\.(json|tar|parquet)")
_ROWS = 100  # in a row group of a parquet file


@dataclasses.dataclass(frozen=True)
class Row:
    """An image of a shard: its number, its PNG, and what the index says: "key", "seed" and "prompt" at least."""

    number: int
    png: bytes
    about: dict[str, Any]


class _Abandoned(Exception):
    """Ends the writing of a shard that will not be finished."""


class _Writer(Protocol):
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class _Tar:
    """KEY.png, KEY.json with what the index says, and KEY.txt with the prompt where there is one."""

    def __init__(self, file: Any):
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, row: Row) -> None:
        # WebDataset takes what is before the first dot for the key.
        key = str(row.about["key"]).replace("%", "%25").replace(".", "%2E")
        self._file(f"{key}.png", row.png)
        self._file(f"{key}.json", json.dumps(row.about).encode())
        if row.about["prompt"]:
            self._file(f"{key}.txt", str(row.about["prompt"]).encode())

    def _file(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()


class _Parquet:
    """The columns "key", "seed", "image" (as the Hugging Face hub has images), "text" (the prompt) and "about"."""

    def __init__(self, file: Any):
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._pa, self._rows = pa, []
        kinds = {"key": "string", "seed": "uint32", "text": "string", "about": "string"}
        features = {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()}
        schema = pa.schema(
            [
                ("key", pa.string()),
                ("seed", pa.uint32()),
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("text", pa.string()),
                ("about", pa.string()),
            ],
            {"huggingface": json.dumps({"info": {"features": features | {"image": {"_type": "Image"}}}})},
        )
        self._writer = pq.ParquetWriter(file, schema)

    def add(self, row: Row) -> None:
        key, about = str(row.about["key"]), row.about
        self._rows.append(
            {
                "key": key,
                "seed": about["seed"],
                "image": {"bytes": row.png, "path": f"{key}.png"},
                "text": about["prompt"],
                "about": json.dumps(about),
            }
        )
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._pa.Table.from_pylist(self._rows, self._writer.schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _Counted(io.RawIOBase):
    """A file to write from beginning to end, whose length and hash are known at the end."""

    def __init__(self, file: IO[bytes]):
        self._file, self.hash, self.length = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.length += len(data)
        self._file.write(data)
        return len(data)

    def tell(self) -> int:
        return self.length


class Shard:
    """A shard under way. It is in the folder once it is closed, its index after it."""

    def __init__(self, folder: Folder, span: Span, kind: Format):
        self.span, self._folder, self._kind = span, folder, kind
        self._about: list[dict[str, Any]] = []
        self._missing = set(span.numbers)
        self._exit = contextlib.ExitStack()
        self._file = _Counted(self._exit.enter_context(folder.writing(f"{span.name}.{kind}")))
        self._writer: _Writer = _Tar(self._file) if kind == "tar" else _Parquet(self._file)

    def add(self, row: Row) -> None:
        """**Raises:** `OSError` where it cannot be written."""
        self._writer.add(row)
        self._missing.remove(row.number)
        self._about.append({**row.about, "sha256": hashlib.sha256(row.png).hexdigest()})

    def close(self) -> dict[str, Any]:
        """Name it, write its index, and return what the manifest says of it."""
        self._writer.close()
        self._exit.close()
        found = {
            "file": f"{self.span.name}.{self._kind}",
            "first": self.span.first,
            "last": self.span.last,
            "images": len(self._about),
            "missing": sorted(self._missing),
            "bytes": self._file.length,
            "sha256": self._file.hash.hexdigest(),
        }
        self._folder.write(f"{self.span.name}.json", json.dumps({**found, "index": self._about}).encode())
        return found

    def abandon(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(_Abandoned), self._exit:
            with contextlib.suppress(OSError, ValueError):  # else it is closed later, when its file is not there
                self._writer.close()
            raise _Abandoned


def finished(folder: Folder, known: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """What there is to say of each finished shard of a folder, in order.

    A shard whose file is missing, or not as long as it was, is not finished. Indexes are read but for those that are
    `known`, from a manifest.
    """
    sizes, by_file = folder.sizes(), {entry["file"]: entry for entry in known}

    def read(name: str) -> dict[str, Any] | None:
        stem = name.removesuffix(".json")
        entry = next((by_file[file] for file in (f"{stem}.tar", f"{stem}.parquet") if file in by_file), None)
        try:
            entry = entry or {**json.loads(folder.read(name)), "index": None}
            return entry if sizes.get(entry["file"]) == entry["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    with ThreadPoolExecutor(32) as pool:
        found = [entry for entry in pool.map(read, filter(_INDEX.fullmatch, sizes)) if entry is not None]
    entries = [{key: value for key, value in entry.items() if key != "index"} for entry in found]
    return sorted(entries, key=lambda entry: entry["first"])


def spans_in(shards: Sequence[dict[str, Any]]) -> list[Span]:
    """The numbers of the images in finished shards."""
    return merged(
        span
        for entry in shards
        for span in without([Span(entry["first"], entry["last"])], [Span(n, n) for n in entry["missing"]])
    )


def pngs_in(folder: Folder, shards: Sequence[dict[str, Any]], keys: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Those of `keys` that the shards hold, and their PNG. A shard is read no further than to the last of them."""
    left = set(keys)
    for entry in shards:
        if not left:
            return
        stem, kind = entry["file"].rsplit(".", 1)
        here = left & {line["key"] for line in json.loads(folder.read(f"{stem}.json"))["index"]}
        if not here:
            continue
        left -= here
        with folder.reading(entry["file"]) as file:
            for key, png in (_images_of_tar if kind == "tar" else _images_of_parquet)(file):
                if key in here:
                    yield key, png
                    here.remove(key)
                if not here:
                    break


def _images_of_tar(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            key, _, field = member.name.partition(".")
            if field == "png" and (data := tar.extractfile(member)) is not None:
                yield key.replace("%2E", ".").replace("%25", "%"), data.read()


def _images_of_parquet(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["key", "image"]):
        for row in batch.to_pylist():
            yield row["key"], row["image"]["bytes"]


def remove_unfinished(folder: Folder, shards: Sequence[dict[str, Any]], planned: Iterable[Span]) -> None:
    """Remove what is left of unfinished shards, but for those that will be written anew under the same name."""
    kept = {span.name for span in planned} | {entry["file"].partition(".")[0] for entry in shards}
    for name in folder.sizes():
        if _FILES.fullmatch(name) and name.partition(".")[0] not in kept:
            folder.remove(name)


def read_manifest(folder: Folder) -> dict[str, Any] | None:
    """The manifest of a folder, or None where it has none.

    **Raises:** `OSError` where it cannot be read, `ValueError` where it is damaged or no manifest of ours.
    """
    try:
        manifest = json.loads(folder.read(MANIFEST))
        _ = manifest["job"]["format"], [entry["file"] for entry in manifest["finished"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        told = "is damaged; where the shards beside it are of this job, remove it, and it is written anew from them"
        raise ValueError(f"{folder.show(MANIFEST)}: {told}") from None
    return manifest


def write_manifest(
    folder: Folder, job: dict[str, Any], complete: bool, shards: Sequence[dict[str, Any]], **about: Any
) -> None:
    """List the finished shards in the manifest, and what else there is to say `about` them."""
    manifest = {
        "job": job,
        **about,
        "images": sum(entry["images"] for entry in shards),
        "complete": complete,
        "finished": shards,
    }
    folder.write(MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())

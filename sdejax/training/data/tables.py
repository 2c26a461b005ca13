"""Images and captions in the columns of arrow and parquet files, in the layout of the Hugging Face Hub.

Arrow files are mapped into memory, so any row can be read directly. Parquet has no random access. It is unpacked once
into an arrow file, which is kept.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

_CAPTIONS = ("caption", "text")
_ABANDONED = 3600.0  # seconds; a half-written file without a write for so long belongs to no living process
_ROWS = 256  # rows that are unpacked at a time


@dataclasses.dataclass(frozen=True)
class TableImages:
    """Images in a column of arrow files. Their names are FILE:ROW; they have no classes."""

    files: tuple[str, ...]
    column: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    classes: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Read the encoded image of a row."""
        data = self._encoded[index].as_py()
        if data is None:
            raise ValueError(f"{self.names[index]!r}: the row has no image")
        return data

    @functools.cached_property
    def _encoded(self) -> "pa.ChunkedArray":
        return _column(self.files, self.column)

    def __reduce__(self) -> "tuple[type[TableImages], tuple[str | tuple[str, ...], ...]]":
        # Without the cached column: each process maps the files itself.
        return TableImages, (self.files, self.column, self.names, self.captions, self.classes)


def open_tables(
    files: Sequence[str],
    titles: Sequence[str],
    image_column: str,
    caption_column: str | None,
    cache: Path | None,
) -> TableImages:
    """List the rows of arrow or parquet files, in order.

    **Arguments:**

    - `files`: the paths of the files.
    - `titles`: what the names of images and messages call each file.
    - `image_column`: the column that holds encoded images.
    - `caption_column`: the column that holds captions. "" is the first of "caption" and "text" that exists; None leaves
      captions out.
    - `cache`: the folder for unpacked parquet files, by default in the user's cache folder.

    **Raises:** `ValueError` if pyarrow is missing, a file is damaged, or a column is missing or has another type.
    """
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("to read parquet and arrow files needs pyarrow: pip install 'sdejax[data]'") from None
    schemas, counts = zip(*(_header(file) for file in files), strict=True)
    columns = [_find("image_column", (image_column,), schemas[0])]
    _check("image_column", image_column, _payload(schemas[0].field(image_column).type), "bytes")
    if caption_column is not None:
        columns.append(_find("caption_column", (caption_column,) if caption_column else _CAPTIONS, schemas[0]))
        _check("caption_column", columns[1], schemas[0].field(columns[1]).type, "text")
    wanted = pa.schema([pa.field(column, schemas[0].field(column).type) for column in columns])
    for title, schema in zip(titles, schemas, strict=True):
        if any(field.name not in schema.names or schema.field(field.name).type != field.type for field in wanted):
            raise ValueError(f"{title!r} has other columns than {titles[0]!r}")
    if _is_parquet(files[0]):
        files = [str(_unpack(files, wanted, cache))]
    names = tuple(f"{title}:{row}" for title, count in zip(titles, counts, strict=True) for row in range(count))
    captions = ("",) * len(names)
    if caption_column is not None:
        captions = tuple(text or "" for text in _column(files, columns[1]).to_pylist())
    return TableImages(tuple(files), image_column, names, captions, ("",) * len(names))


def _is_parquet(file: str) -> bool:
    return file.lower().endswith(".parquet")


def _header(file: str) -> "tuple[pa.Schema, int]":
    """Read the schema and the number of rows of a file."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    try:
        if _is_parquet(file):
            metadata = pq.read_metadata(file)
            return metadata.schema.to_arrow_schema(), metadata.num_rows
        table = _map(file)
        return table.schema, table.num_rows
    except (pa.ArrowException, OSError) as error:
        kind = "a parquet" if _is_parquet(file) else "an arrow"
        raise ValueError(f"{os.path.basename(file)!r} is damaged, or not {kind} file ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(" .")


def _map(file: str) -> "pa.Table":
    """Map an arrow file, of the file layout or the stream layout, into memory as a table."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    source = pa.memory_map(file)
    magic = source.read(6)
    source.seek(0)
    return (pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)).read_all()


def _column(files: Sequence[str], name: str) -> "pa.ChunkedArray":
    """Join a column of all files. If it holds structs, the result is their field `bytes`."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    columns = [_map(file).column(name) for file in files]
    whole = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    return whole.flatten()[whole.type.get_field_index("bytes")] if pa.types.is_struct(whole.type) else whole


def _payload(kind: "pa.DataType") -> "pa.DataType":
    """The type of the images in a column of type `kind`: for a struct, the type of its field `bytes`."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind


def _find(argument: str, names: Sequence[str], schema: "pa.Schema") -> str:
    """The first of `names` that is a column."""
    found = next((name for name in names if name in schema.names), None)
    if found is None:
        raise ValueError(
            f"{argument}={' or '.join(map(repr, names))}: no such column; there are {', '.join(schema.names)}"
        )
    return found


def _check(argument: str, name: str, kind: "pa.DataType", wanted: Literal["bytes", "text"]) -> None:
    """**Raises:** `ValueError` if the column `name` has another type than the wanted one."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_binary if wanted == "bytes" else is_text):
        what = "encoded images (bytes, or a struct with bytes)" if wanted == "bytes" else "strings"
        raise ValueError(f"{argument}={name!r}: has the type {kind}, must hold {what}")


def _unpack(files: Sequence[str], schema: "pa.Schema", cache: Path | None) -> Path:
    """Unpack the columns of `schema` from parquet files into one arrow file, unless that was done before.

    The name of the arrow file is a hash of the files' paths, sizes and times. So if the files change, they are
    unpacked again. The arrow file is written whole or not at all.
    """
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdejax"
    facts = [(os.path.abspath(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    name = hashlib.sha256(json.dumps([facts, schema.names]).encode()).hexdigest()[:32]
    target = cache / f"{name}.arrow"
    if target.is_file():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for part in cache.glob(f".{name}.*.part"):
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink(missing_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache, prefix=f".{name}.", suffix=".part")
        try:
            _write_arrow(handle, files, schema)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot be unpacked into cache={str(cache)!r} ({_first_line(error)})") from None
    return target


def _write_arrow(handle: int, files: Sequence[str], schema: "pa.Schema") -> None:
    """Write the columns of `schema` from parquet files to an open file descriptor, and close it."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    with os.fdopen(handle, "wb") as sink:
        with pa.ipc.new_file(sink, schema) as writer:
            for file in files:
                for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=schema.names):
                    arrays = [batch.column(column) for column in schema.names]
                    writer.write_batch(pa.record_batch(arrays, schema=schema))
        sink.flush()
        os.fsync(sink.fileno())

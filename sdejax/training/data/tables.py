"""Images and captions in the columns of arrow and parquet files, as the Hugging Face hub lays them out.

Arrow files are mapped into memory, so that any row is at hand. Parquet has no random access: it is unpacked once, into
an arrow file that is kept.
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
from typing import Any

_CAPTIONS = ("caption", "text")
_ABANDONED = 3600.0  # seconds without a write, after which a half-written file belongs to no living process
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Table:
    """Images in a column of arrow files; their names are FILE:ROW."""

    files: tuple[str, ...]
    column: str
    names: tuple[str, ...]
    captions: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """The encoded image of a row."""
        data = self._encoded[index].as_py()
        if data is None:
            raise ValueError(f"{self.names[index]!r}: the row has no image")
        return data

    @functools.cached_property
    def _encoded(self) -> Any:
        return _column(self.files, self.column)

    def __reduce__(self) -> Any:
        return Table, (self.files, self.column, self.names, self.captions)  # each process maps the files itself


def open_tables(
    files: Sequence[str],
    titles: Sequence[str],
    image_column: str,
    caption_column: str | None,
    cache: Path | None,
) -> Table:
    """The rows of arrow or parquet files, in order; names call the files by their `titles`.

    A `caption_column` of "" is the first of "caption" and "text" that exists; None leaves captions out.

    **Raises:** `ValueError` where pyarrow is missing, a file is damaged, or a column is missing or of another type.
    """
    try:
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("parquet and arrow files need pyarrow: pip install 'sdejax[data]'") from None
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
    return Table(tuple(files), image_column, names, captions)


def _is_parquet(file: str) -> bool:
    return file.lower().endswith(".parquet")


def _header(file: str) -> tuple[Any, int]:
    """The schema and the number of rows of a file."""
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
        raise ValueError(f"{os.path.basename(file)!r} is damaged, or not {kind} file ({_line(error)})") from None


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(" .")


def _map(file: str) -> Any:
    """An arrow file as a table whose buffers are the file's own pages, in either of the two layouts there are."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    source = pa.memory_map(file)
    magic = source.read(6)
    source.seek(0)
    return (pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)).read_all()


def _column(files: Sequence[str], name: str) -> Any:
    """A column of all files as one; of images that are structs, their bytes."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    columns = [_map(file).column(name) for file in files]
    whole = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    return whole.flatten()[whole.type.get_field_index("bytes")] if pa.types.is_struct(whole.type) else whole


def _payload(kind: Any) -> Any:
    """The type of what holds the image: that of the field `bytes` of a struct."""
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    return kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind


def _find(argument: str, names: Sequence[str], schema: Any) -> str:
    found = next((name for name in names if name in schema.names), None)
    if found is None:
        raise ValueError(
            f"{argument}={' or '.join(map(repr, names))}: no such column; there are {', '.join(schema.names)}"
        )
    return found


def _check(argument: str, name: str, kind: Any, wanted: str) -> None:
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_binary if wanted == "bytes" else is_text):
        what = "encoded images (bytes, or a struct with bytes)" if wanted == "bytes" else "strings"
        raise ValueError(f"{argument}={name!r}: has the type {kind}, must hold {what}")


def _unpack(files: Sequence[str], schema: Any, cache: Path | None) -> Path:
    """The columns of `schema` of parquet files as an arrow file, written whole or not at all, and only once.

    Its name is a hash of the files' paths, sizes and times, so that files that change are unpacked anew.
    """
    import pyarrow as pa  # pyright: ignore[reportMissingImports]
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

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
            with os.fdopen(handle, "wb") as sink:
                with pa.ipc.new_file(sink, schema) as writer:
                    for file in files:
                        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=schema.names):
                            arrays = [batch.column(column) for column in schema.names]
                            writer.write_batch(pa.record_batch(arrays, schema=schema))
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot be unpacked into cache={str(cache)!r} ({_line(error)})") from None
    return target

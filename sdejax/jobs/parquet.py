"""The format "parquet": shards as the Hugging Face hub reads them."""

import json
from collections.abc import Iterator
from typing import IO, Any

from sdejax.jobs.sinks import EncodedImage

_ROWS = 100  # in a row group


class Parquet:
    """The columns are "key", "seed", "image" (as the hub stores images), "text" (the prompt) and "about"."""

    ending = "parquet"

    def writer(self, file: IO[bytes]) -> "_ParquetWriter":
        """What writes a shard."""
        return _ParquetWriter(file)

    def images(self, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        """The key and the PNG of each image."""
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["key", "image"]):
            for row in batch.to_pylist():
                yield row["key"], row["image"]["bytes"]


class _ParquetWriter:
    def __init__(self, file: IO[bytes]):
        import pyarrow as pa  # pyright: ignore[reportMissingImports]
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

        self._pa = pa
        self._rows: list[dict[str, Any]] = []
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

    def add(self, image: EncodedImage) -> None:
        self._rows.append(
            {
                "key": image.name,
                "seed": image.about["seed"],
                "image": {"bytes": image.png, "path": f"{image.name}.png"},
                "text": image.about["prompt"],
                "about": json.dumps(image.about),
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

"""The one list of output formats."""

from collections.abc import Callable
from functools import partial

from sdejax.jobs.manifest import read_manifest
from sdejax.jobs.parquet import Parquet
from sdejax.jobs.png_folder import PngSink, has_pngs
from sdejax.jobs.shard_sink import ShardSink
from sdejax.jobs.sinks import Destination, Sink
from sdejax.jobs.tar import Tar
from sdejax.runtime.storage import Folder

FORMATS: dict[str, Callable[[Destination], Sink]] = {
    "png": PngSink,
    "tar": partial(ShardSink, Tar()),
    "parquet": partial(ShardSink, Parquet()),
}

_FEW = 10_000  # a job of so many images is written as PNG files by default


def choose_format(folder: Folder, asked: str | None, images: int) -> str:
    """The format of a job: what the person asked for, else that of the folder, else by the number of images.

    **Raises:** `ValueError` if it is none of `FORMATS`, or the folder's manifest is damaged.
    """
    manifest = read_manifest(folder)
    if asked is not None:
        name = asked
    elif manifest is not None:
        name = manifest["job"]["format"]
    else:
        name = "png" if images <= _FEW or has_pngs(folder) else "tar"
    if name not in FORMATS:
        raise ValueError(f"format={name!r}: must be one of {', '.join(FORMATS)}")
    return name

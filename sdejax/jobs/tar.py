"""The format "tar": shards as WebDataset reads them."""

import io
import json
import tarfile
from collections.abc import Iterator
from typing import IO

from sdejax.jobs.sinks import EncodedImage


class Tar:
    """An image is KEY.png, KEY.json with what the index says of it, and KEY.txt with the prompt if it has one."""

    ending = "tar"

    def writer(self, file: IO[bytes]) -> "_TarWriter":
        """What writes a shard."""
        return _TarWriter(file)

    def images(self, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        """The key and the PNG of each image."""
        with tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                if field == "png" and (data := tar.extractfile(member)) is not None:
                    yield key.replace("%2E", ".").replace("%25", "%"), data.read()


class _TarWriter:
    def __init__(self, file: IO[bytes]):
        self._tar = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add(self, image: EncodedImage) -> None:
        # WebDataset considers the part before the first dot to be the key.
        key = image.name.replace("%", "%25").replace(".", "%2E")
        self._file(f"{key}.png", image.png)
        self._file(f"{key}.json", json.dumps(image.about).encode())
        if image.about["prompt"]:
            self._file(f"{key}.txt", str(image.about["prompt"]).encode())

    def _file(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._tar.close()

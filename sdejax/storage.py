"""A folder on the local disk or at any address that fsspec knows (gs://, s3://, memory://), written file by file.

A file is there whole or not at all: it is written under a hidden name that ends in ".part", and renamed. The hidden
name follows from the file's, so that what a kill left behind is overwritten when the file is made again; but where
several processes write the same file, each has hidden names of its own, and the last to finish has its way.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec


@dataclasses.dataclass(frozen=True)
class Folder:
    """`files` is fsspec's file system, `path` the folder's path in it, `shown` as the person wrote it.

    `shared` says that several processes may write the same file at the same time.
    """

    files: Any
    path: str
    shown: str
    shared: bool = False

    @classmethod
    def open(cls, address: str, name: str = "out", shared: bool = False) -> "Folder":
        """The folder at an address, which need not exist.

        **Raises:** `ValueError`, calling the address `name`, where nothing here knows such addresses.
        """
        try:
            files, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, OSError) as error:
            raise ValueError(f"{name}={address!r}: cannot be opened ({error})") from None
        return cls(files, path.rstrip("/") or "/", address, shared)

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def show(self, name: str) -> str:
        """The address of a file, as the person would write it."""
        return f"{self.shown.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """The files in it, hidden ones left out, and their lengths in bytes; none where there is no folder."""
        try:
            found = self.files.ls(self.path, detail=True, refresh=True)
        except TypeError:  # a file system without a cache of its listings
            found = self.files.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        names = {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}
        return {name: size for name, size in names.items() if not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """**Raises:** `FileNotFoundError`."""
        return self.files.cat_file(f"{self.path}/{name}")

    def remove(self, name: str) -> None:
        """**Raises:** `FileNotFoundError`."""
        self.files.rm(f"{self.path}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """**Raises:** `OSError` where it cannot be written."""
        with self.writing(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write from its beginning to its end; it has its name once the body has ended well."""
        part = f"{self.path}/.{name}.{uuid.uuid4().hex}.part" if self.shared else f"{self.path}/.{name}.part"
        try:
            with self.files.open(part, "wb") as file:
                yield file
            self.files.mv(part, f"{self.path}/{name}")
        except BaseException:
            with contextlib.suppress(OSError):
                self.files.rm(part)
            raise

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make the folder for the body's work, and take it away again if the body fails before it wrote anything.

        **Raises:** `ValueError` where it cannot be written.
        """
        missing, path = [], self.path
        while self.local and not self.files.exists(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        try:
            self.files.makedirs(self.path, exist_ok=True)
            probe = f"writable-{uuid.uuid4().hex}"  # of this process alone
            self.write(probe, b"")
            self.remove(probe)
        except OSError as error:
            raise ValueError(f"--out={self.shown!r}: cannot be written ({error.strerror or error})") from None
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                for folder in missing:
                    self.files.rmdir(folder)
            raise

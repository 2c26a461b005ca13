"""A folder on the local disk or at any address that fsspec knows (gs://, s3://, memory://), written file by file.

A file is there whole or not at all: it is written under a hidden name that ends in ".part", and renamed. No two writers
have the same hidden name: of two that write the same file, the last to finish has its way.
"""

import contextlib
import dataclasses
import re
import uuid
from collections.abc import Iterator
from typing import IO, Any

import fsspec

_PART = re.compile(r"\..+\.[0-9a-f]{32}\.part")
_PATTERN = frozenset("*?[")


@dataclasses.dataclass(frozen=True)
class Folder:
    """`files` is fsspec's file system, `path` the folder's path in it, `shown` as the person wrote it."""

    files: Any
    path: str
    shown: str

    @classmethod
    def open(cls, address: str, name: str = "out") -> "Folder":
        """The folder at an address, which need not exist.

        **Raises:** `ValueError`, calling the address `name`, where nothing here knows such addresses.
        """
        try:
            files, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, OSError) as error:
            raise ValueError(f"{name}={address!r}: cannot be opened ({error})") from None
        return cls(files, path.rstrip("/") or "/", address)

    @property
    def local(self) -> bool:
        """Whether it is a folder of this machine's file system."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def show(self, name: str) -> str:
        """The address of a file, as the person would write it."""
        return f"{self.shown.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """The files in it, hidden ones left out, and their lengths in bytes; none where there is no folder."""
        return {name: size for name, size in self._listed().items() if not name.startswith(".")}

    def sweep(self) -> None:
        """Remove what was begun and never finished, as a kill leaves it. Who still writes such a file then fails."""
        for name in filter(_PART.fullmatch, self._listed()):
            with contextlib.suppress(FileNotFoundError):
                self.remove(name)

    def _listed(self) -> dict[str, int]:
        with _errors_of_the_system():
            try:
                found = self.files.ls(self.path, detail=True, refresh=True)
            except TypeError:  # a file system without a cache of its listings
                found = self.files.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}

    def read(self, name: str) -> bytes:
        """**Raises:** `FileNotFoundError`."""
        with _errors_of_the_system():
            return self.files.cat_file(f"{self.path}/{name}")

    def reading(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file to read from."""
        return self.files.open(f"{self.path}/{name}", "rb")

    def remove(self, name: str) -> None:
        """**Raises:** `FileNotFoundError`."""
        with _errors_of_the_system():
            self.files.rm_file(f"{self.path}/{name}")

    def sign(self) -> str:
        """Write an empty file by which others see that theirs is the same folder; its name. What is left is swept."""
        name = f".sign.{uuid.uuid4().hex}.part"
        self.write(name, b"")
        return name

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        with _errors_of_the_system():
            return self.files.isfile(f"{self.path}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """**Raises:** `OSError` where it cannot be written."""
        with self.writing(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write from its beginning to its end; it has its name once the body has ended well."""
        part = f"{self.path}/.{name}.{uuid.uuid4().hex}.part"
        try:
            with _errors_of_the_system():
                with self.files.open(part, "wb") as file:
                    yield file
                try:
                    self._rename(part, f"{self.path}/{name}")
                except FileNotFoundError:
                    told = "was taken away half-written, as another run does that begins there"
                    raise OSError(f"{name} {told}") from None
        except BaseException:
            with contextlib.suppress(Exception):
                self.files.rm_file(part)
            raise

    def _rename(self, path: str, target: str) -> None:
        if self.local or not _PATTERN.intersection(path):
            self.files.mv(path, target)
        else:  # most buckets' clients would take the path for a pattern
            self.files.cp_file(path, target)
            self.files.rm_file(path)

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
            with _errors_of_the_system():
                self.files.makedirs(self.path, exist_ok=True)
                probe = f"{self.path}/.writable-{uuid.uuid4().hex}"  # of this process alone, and nothing to sweep
                self.files.pipe_file(probe, b"")
                self.files.rm_file(probe)
        except OSError as error:
            raise ValueError(f"--out={self.shown!r}: cannot be written ({error.strerror or error})") from None
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                for folder in missing:
                    self.files.rmdir(folder)
            raise


@contextlib.contextmanager
def _errors_of_the_system() -> Iterator[None]:
    """What a bucket's client raises of its own (no rights, no network, no credentials) as the `OSError` that it is."""
    try:
        yield
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ("builtins", "sdejax")
        if ours or isinstance(error, (OSError, ValueError)):
            raise
        text = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {text}") from error

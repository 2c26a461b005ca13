"""A folder on the local disk or at any address that fsspec knows (gs://, s3://, memory://).

A file is there whole or not at all: it is written under a hidden name that ends in ".part" and then renamed. Each
writer has a hidden name of its own. If two write the same file, the one that finishes last replaces the other's.
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
    """A folder. `files` is fsspec's file system, `path` the path in it, `shown` the address that the person wrote."""

    files: Any
    path: str
    shown: str

    @classmethod
    def open(cls, address: str, name: str = "out") -> "Folder":
        """The folder at an address. It need not exist.

        **Raises:** `ValueError`, in which the address is called `name`, if no installed package knows such addresses.
        """
        try:
            files, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError, OSError) as error:
            raise ValueError(f"{name}={address!r}: cannot be opened ({error})") from None
        return cls(files, path.rstrip("/") or "/", address)

    @property
    def local(self) -> bool:
        """Whether the folder is in this machine's file system."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def show(self, name: str) -> str:
        """The address of a file, as the person would write it."""
        return f"{self.shown.rstrip('/')}/{name}"

    def sizes(self) -> dict[str, int]:
        """The length in bytes of each file that is not hidden; empty if there is no folder."""
        return {name: size for name, size in self._all_sizes().items() if not name.startswith(".")}

    def _all_sizes(self) -> dict[str, int]:
        with _as_os_errors():
            try:
                found = self.files.ls(self.path, detail=True, refresh=True)
            except TypeError:  # this file system does not cache its listings and has no such argument
                found = self.files.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
        return {entry["name"].rpartition("/")[2]: entry["size"] for entry in found if entry["type"] == "file"}

    def remove_unfinished(self) -> None:
        """Remove files that were begun and never finished, as a killed process leaves them.

        A process that still writes such a file fails.
        """
        for name in filter(_PART.fullmatch, self._all_sizes()):
            with contextlib.suppress(FileNotFoundError):
                self.remove(name)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        with _as_os_errors():
            return self.files.isfile(f"{self.path}/{name}")

    def read(self, name: str) -> bytes:
        """The content of a file.

        **Raises:** `FileNotFoundError`.
        """
        with _as_os_errors():
            return self.files.cat_file(f"{self.path}/{name}")

    def reading(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file to read from."""
        return self.files.open(f"{self.path}/{name}", "rb")

    def remove(self, name: str) -> None:
        """Remove a file.

        **Raises:** `FileNotFoundError`.
        """
        with _as_os_errors():
            self.files.rm_file(f"{self.path}/{name}")

    def leave_mark(self) -> str:
        """Write an empty hidden file and return its name. Other processes that see it have the same folder.

        `remove_unfinished` removes it, too.
        """
        name = f".mark.{uuid.uuid4().hex}.part"
        self.write(name, b"")
        return name

    def write(self, name: str, data: bytes) -> None:
        """Write a file.

        **Raises:** `OSError` if it cannot be written.
        """
        with self.writing(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write from beginning to end. It gets its name when the body ends without an exception."""
        part = f"{self.path}/.{name}.{uuid.uuid4().hex}.part"
        try:
            with _as_os_errors():
                with self.files.open(part, "wb") as file:
                    yield file
                try:
                    self._rename(part, f"{self.path}/{name}")
                except FileNotFoundError:
                    raise OSError(f"{name}: another run began in this folder and removed the unfinished file") from None
        except BaseException:
            with contextlib.suppress(Exception):
                self.files.rm_file(part)
            raise

    def _rename(self, path: str, target: str) -> None:
        if self.local or not _PATTERN.intersection(path):
            self.files.mv(path, target)
        else:  # `mv` of most file systems for buckets would take the path for a pattern
            self.files.cp_file(path, target)
            self.files.rm_file(path)

    @contextlib.contextmanager
    def created(self, name: str = "out") -> Iterator[None]:
        """Create the folder for the body. If the body fails before it writes anything, remove the folder again.

        **Raises:** `ValueError`, in which the address is called `name`, if the folder cannot be written.
        """
        missing, path = [], self.path
        while self.local and not self.files.exists(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        try:
            with _as_os_errors():
                self.files.makedirs(self.path, exist_ok=True)
                probe = f"{self.path}/.writable-{uuid.uuid4().hex}"  # no other process has this file or removes it
                self.files.pipe_file(probe, b"")
                self.files.rm_file(probe)
        except OSError as error:
            raise ValueError(f"{name}={self.shown!r}: cannot be written ({error.strerror or error})") from None
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                for folder in missing:
                    self.files.rmdir(folder)
            raise


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Raise the exceptions of a bucket's client (no rights, no network, no credentials) as `OSError`."""
    try:
        yield
    except Exception as error:
        known = type(error).__module__.partition(".")[0] in ("builtins", "sdejax")
        if known or isinstance(error, (OSError, ValueError)):
            raise
        text = " ".join(str(error).split())
        raise OSError(f"{type(error).__name__}: {text}") from error

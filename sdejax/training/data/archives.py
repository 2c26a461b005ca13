"""Members of zip and tar files, each found once and then read directly by its offset."""

import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

_TAR, _STORED, _DEFLATED = range(3)  # how the bytes of a member are stored


class Member(NamedTuple):
    """A file in an archive: the offset of its bytes (in a zip: of its header), its stored size, and its storage."""

    offset: int
    size: int
    storage: int

    def read(self, archive: str) -> bytes:
        """Read the bytes of the file from `archive`, unpacked."""
        with open(archive, "rb") as file:
            file.seek(self.offset)
            if self.storage != _TAR:
                header = file.read(30)
                if len(header) < 30 or header[:4] != b"PK\x03\x04":
                    raise ValueError(f"{archive!r}: damaged, no header at byte {self.offset}")
                file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)  # the lengths of name and extra field
            data = file.read(self.size)
        if len(data) < self.size:
            raise ValueError(f"{archive!r}: cut short, it ends within {self.size} bytes from {self.offset}")
        try:
            return zlib.decompress(data, -zlib.MAX_WBITS) if self.storage == _DEFLATED else data
        except zlib.error as error:
            raise ValueError(f"{archive!r}: damaged at byte {self.offset} ({error})") from None


def list_members(archive: str) -> Iterator[tuple[str, Member]]:
    """The names and members of a .zip or .tar file, in the order in which the file lists them.

    **Raises:** `ValueError` if the file is damaged, or a member is encrypted or packed in a rare way.
    """
    return _zip_members(archive) if archive.lower().endswith(".zip") else _tar_members(archive)


def _tar_members(archive: str) -> Iterator[tuple[str, Member]]:
    try:
        with tarfile.open(archive, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # else all headers stay in memory
                if member.isreg():
                    yield member.name, Member(member.offset_data, member.size, _TAR)
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{os.path.basename(archive)!r} is damaged, or not a tar file ({error})") from None
    with open(archive, "rb") as file:  # tarfile takes a damaged header for the end of the file
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"{os.path.basename(archive)!r} is damaged, no header at byte {end}")


def _zip_members(archive: str) -> Iterator[tuple[str, Member]]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{os.path.basename(archive)!r} is damaged, or not a zip file ({error})") from None
    storage = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}
    for member in members:
        if member.flag_bits & 1 or member.compress_type not in storage:
            raise ValueError(f"{member.filename!r} is encrypted or packed in a rare way; pack it stored or deflated")
        yield member.filename, Member(member.header_offset, member.compress_size, storage[member.compress_type])

"""Plain files that are never half-written: temporary name, fsync, rename; and their hashes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedWriter, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sdlms.errors import UserError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK_BYTES = 1 << 20


def sha256_of(path: Path) -> str:
    """The file's sha256 as 64 hex digits, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """A block that does nothing but write a file; where the system refuses, that is one line.

    Raises:
        UserError: an OSError of the block, such as a full disk, with the file's name.
    """
    try:
        yield
    except OSError as error:
        # By its number: what HDF5 says of a full disk goes on for lines.
        why = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        raise UserError(f"cannot write {path}: {why}.") from None


class _Temporary(FileIO):
    """What is written under a temporary name; its errors name the file that it will be."""

    def __init__(self, temporary: Path, path: Path) -> None:
        self._path = path
        super().__init__(temporary, "w")

    def write(self, content: "ReadableBuffer", /) -> int:
        """As of any file."""
        with write_errors(self._path):
            return super().write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write; when the block ends well, `path` holds it, otherwise what it held before.

    Raises:
        UserError: it cannot be written, as on a full disk. Other errors of the block stay as they
            are: of what it reads meanwhile, for instance.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with write_errors(path):
            raw = _Temporary(temporary, path)
        with BufferedWriter(raw) as file:
            yield file
            with write_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with write_errors(path):
            temporary.replace(path)
    finally:
        with write_errors(path):
            temporary.unlink(missing_ok=True)  # gone already, unless something went wrong
    with write_errors(path):
        sync(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either the old or the new bytes, whatever happens.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    with replacing(path) as file:
        file.write(content)


def unreadable(path: Path, error: OSError) -> UserError:
    """What there is to say of an HDF5 file that cannot be opened.

    Args:
        path: of the file.
        error: by which the system, or HDF5 where there is no `strerror`, says why.
    """
    reason = (error.strerror or str(error)).partition("\n")[0]
    if error.strerror:
        return UserError(f"cannot read {path} ({reason}).")
    return UserError(f"cannot read {path}: it is damaged, or another program's ({reason}).")

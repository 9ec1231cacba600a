"""Files that may be compressed: .gz, .bz2, .xz and .zst are read as what they hold."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sdlms.errors import UserError
from sdlms.storage.extras import require


def _open_zst(path: Path) -> Any:
    """A Zstandard file; pyarrow says when it is cut short, the zstandard library does not."""
    require("pyarrow", "datasets", str(path))
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}


def is_compressed(path: Path) -> bool:
    """Whether the file's name says that its content is compressed."""
    return path.suffix.lower() in OPENERS


def content_name(path: Path) -> Path:
    """The path without the suffix of the compression: `a.jsonl` for `a.jsonl.gz`."""
    return path.with_suffix("") if is_compressed(path) else path


@contextmanager
def open_binary(path: Path) -> Iterator[IO[bytes]]:
    """A file's content, decompressed as the file's name says.

    Raises:
        UserError: the compressed content is damaged or cut short, or a library is missing.
    """
    if not is_compressed(path):
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with OPENERS[path.suffix.lower()](path) as stream:
            yield stream
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if getattr(error, "errno", None) is not None:  # the disk, not the content
            raise
        reason = str(error).strip(" .")
        raise UserError(f"{path}: cannot be decompressed ({reason}); is it complete?") from None

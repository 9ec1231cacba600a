"""Read rows of `activations.h5` where they lie: positioned reads into buffers of the caller.

HDF5 is asked once where each data set begins. After that nothing is copied on the way, nothing is
cached twice, every byte that is read is counted, and threads may read at once.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage.activations import ActivationsReader, Header, Place
from sdlms.storage.files import unreadable
from sdlms.storage.flat import Array

MASK = "/tokens/mask"
IDS = "/tokens/ids"
MOST_BUFFERS = 512  # of one call; Linux takes 1,024


@dataclass(frozen=True)
class RowFile:
    """Where everything lies in one finished file.

    Attributes:
        path: the file.
        header: what the activations are of.
        offsets: `[document + 1]` int64, the rows of each document.
        document_ids: of each document.
        document_tasks: of each document.
        places: of each data set that is read by rows.
        state: device, inode, size and time of change, by which another file is told.
    """

    path: Path
    header: Header
    offsets: NDArray[np.int64]
    document_ids: tuple[str, ...]
    document_tasks: tuple[str, ...]
    places: dict[str, Place]
    state: tuple[int, ...]

    @contextmanager
    def open(self) -> Iterator["OpenRows"]:
        """Open the file for reading.

        Raises:
            UserError: it is gone, or is another one by now.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"cannot read {self.path} ({error.strerror}).") from None
        try:
            if _state(os.fstat(descriptor)) != self.state:
                raise UserError(f"{self.path} changed since it was loaded. Load it again.")
            yield OpenRows(self, descriptor)
        finally:
            os.close(descriptor)


class OpenRows:
    """An open file.

    Attributes:
        bytes_read: so far.
    """

    def __init__(self, file: RowFile, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        self.bytes_read = 0

    def read_into(self, name: str, first: int, buffers: Sequence[Array]) -> None:
        """Fill buffers with consecutive rows of a data set, from `first` on.

        Args:
            name: the data set, `dataset_name(key)` for activations.
            first: the row that the first buffer begins with.
            buffers: C-contiguous arrays of the stored type.

        Raises:
            UserError: the file ends before.
        """
        place = self._file.places[name]
        offset = place.offset + first * place.row_bytes
        for start in range(0, len(buffers), MOST_BUFFERS):
            some = [b.reshape(-1).view(np.uint8) for b in buffers[start : start + MOST_BUFFERS]]
            offset = self._fill([buffer for buffer in some if buffer.size], offset)

    def _fill(self, buffers: list[NDArray[np.uint8]], offset: int) -> int:
        """Fill byte buffers, however many calls that takes; return where they end in the file."""
        while buffers:
            n_read = os.preadv(self._descriptor, [buffer.data for buffer in buffers], offset)
            if n_read <= 0:
                raise UserError(f"{self._file.path} ends early: it is damaged.")
            self.bytes_read += n_read
            offset += n_read
            while buffers and n_read >= buffers[0].size:
                n_read -= buffers.pop(0).size
            if n_read:
                buffers[0] = buffers[0][n_read:]
        return offset

    def expect(self, name: str, first: int, last: int) -> None:
        """Say that rows will be read soon; the system may fetch them meanwhile."""
        advise = getattr(os, "posix_fadvise", None)
        if advise is not None:
            place = self._file.places[name]
            start, size = place.offset + first * place.row_bytes, (last - first) * place.row_bytes
            advise(self._descriptor, start, size, os.POSIX_FADV_WILLNEED)


def find_rows(path: Path, kind: type[ActivationsReader] = ActivationsReader) -> RowFile:
    """Read what a file says about itself: attributes and documents, no row.

    Args:
        path: the file.
        kind: what reads its format.

    Raises:
        UserError: it cannot be read, or is of another format or version.
    """
    try:
        with kind(path) as reader:
            header = reader.header()
            names = reader.data_names(header)
            names += [MASK, IDS] if "s" in header.dims else []
            offsets = reader.offsets()
            ids, tasks = tuple(reader.documents("id")), tuple(reader.documents("task"))
            if not len(offsets) == len(ids) + 1 == len(tasks) + 1 or offsets[0] or falls(offsets):
                raise ValueError("documents and their rows contradict each other")
            return RowFile(
                path=path,
                header=header,
                offsets=offsets,
                document_ids=ids,
                document_tasks=tasks,
                places={name: reader.place(name) for name in names},
                state=_state(path.stat()),
            )
    except OSError as error:
        raise unreadable(path, error) from None
    # KeyError, IndexError, RuntimeError: by which HDF5 says that a part is missing; the others: it
    # is there, and is something else.
    except (KeyError, IndexError, RuntimeError, ValueError, TypeError):
        raise UserError(f"cannot read {path}: it is damaged, or another program's.") from None


def falls(numbers: NDArray[np.int64]) -> bool:
    """Whether one of them is less than the one before."""
    return bool((numbers[1:] < numbers[:-1]).any())


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

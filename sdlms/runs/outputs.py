"""The files of a run that is being written: declared one by one, hashed in the background."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sdlms.runs.folder import contents
from sdlms.runs.meta import Record
from sdlms.storage.files import sha256_of, sync

FileState = tuple[int, int, int]


@dataclass(frozen=True)
class _Declared:
    """A file that was said to be complete: its record, its state then, its hash to come."""

    record: Record
    state: FileState
    digest: Future[str]


class Outputs:
    """What a run's folder holds, and the proof that nothing changed after it was declared."""

    def __init__(self, folder: Path) -> None:
        """Nothing is declared yet."""
        self.folder = folder
        self._declared: dict[str, _Declared] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")

    def declare(
        self, name: str, columns: Sequence[str] | None = None, timed: Sequence[str] = ()
    ) -> None:
        """Take a file as complete and start to hash it.

        Raises:
            ValueError: it is no plain file.
        """
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{name} is no plain file in the run")
        record: Record = {"path": name}
        if columns is not None:
            record["columns"] = list(columns)
        if timed:
            record["timed"] = list(timed)
        self._declared[name] = _Declared(record, _state(path), self._pool.submit(sha256_of, path))

    def records(self, *, apart: set[str]) -> list[Record]:
        """Path, bytes and sha256 of every file but those `apart`, in order of name, each synced.

        Raises:
            ValueError: a declared file is gone or changed, or something is no plain file.
        """
        names = contents(self.folder)[0] - apart
        if gone := sorted(set(self._declared) - names):
            raise ValueError(f"declared as output, but not in the run: {', '.join(gone)}")
        return [self.record(name) for name in sorted(names)]

    def record(self, name: str) -> Record:
        """The record of one file, once its hash is there; undeclared, it is declared now."""
        if name not in self._declared:
            self.declare(name)
        declared, path = self._declared[name], self.folder / name
        digest = declared.digest.result()
        sync(path)
        if _state(path) != declared.state:
            raise ValueError(f"{name} changed after it was declared complete")
        return {**declared.record, "bytes": declared.state[0], "sha256": digest}

    def close(self) -> None:
        """Stop hashing."""
        self._pool.shutdown(cancel_futures=True)


def _state(path: Path) -> FileState:
    """What changes when a file is written to or replaced: size, time of change, identity."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino

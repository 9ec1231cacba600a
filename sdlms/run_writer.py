"""Write one run: a hidden folder under a lock, sealed, made read-only and renamed when complete.

```
with RunWriter("capture", config, options) as out:      # nothing on disk yet
    decided = out.start(resolved={...}, decided={...})   # creates the folder, or resumes one
    write(out.path / "table.csv")
    out.output("table.csv", columns=[...])
```
Leaving the block publishes the run; leaving it by an exception keeps a partial run that
`--resume` continues.
"""

import fcntl
import json
import logging
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from sdlms.errors import UserError
from sdlms.progress import LOGGER, readable_bytes, readable_seconds
from sdlms.provenance import package_version, provenance
from sdlms.runs import LOCK, META, PARTIAL, Record, Run, list_runs, seal
from sdlms.storage.files import sha256_of, sync
from sdlms.storage.jsonl import encode_line

SCRATCH = ".scratch"
DISK_SLACK = 1.05
LOG = "logs/run.log"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run goes and what it is called: nothing here changes its results."""

    artifacts: Annotated[Path, "Folder that holds the runs."] = Path("artifacts")
    label: Annotated[str | None, "Word added to the run's name."] = None
    resume: Annotated[bool, "Continue the newest unfinished run with the same settings."] = False

    def __post_init__(self) -> None:
        """Check the label."""
        if self.label is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.label):
            raise UserError(
                f"--label may hold letters, digits, '.', '_' and '-', got '{self.label}'."
            )


class RunWriter:
    """The run that a stage writes."""

    def __init__(self, stage: str, config: Record, options: RunOptions) -> None:
        """Check that the artifacts folder can be written; create nothing.

        Args:
            stage: the stage's name.
            config: every setting that may change a result, as JSON values.
            options: where the run goes.

        Raises:
            UserError: the artifacts folder cannot be written.
        """
        check_writable(options.artifacts)
        self.stage, self.config, self.options = stage, config, options
        self.resumed = False
        self.summary: Record = {}
        self._hashes: dict[str, tuple[Record, Future[str]]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._path: Path | None = None
        self._lock = self._meta = -1
        self._log: logging.Handler | None = None

    @property
    def path(self) -> Path:
        """The folder to write into."""
        if self._path is None:
            raise ValueError("the run has not been started")
        return self._path

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints; it is deleted before the run is published."""
        folder = self.path / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def start(self, resolved: Record, decided: Record) -> Record:
        """Create the run, or with `--resume` take up the partial run that matches.

        Args:
            resolved: what the inputs turned out to be: models, data, with their hashes.
            decided: what `auto` turned out to be (dtype, threads, token budget, device).

        Returns:
            The decisions to work by: `decided`, or those recorded by the run that is resumed.

        Raises:
            UserError: the folder cannot be created, or the matching run is being written.
        """
        self._began = time.monotonic()
        resolved = json.loads(json.dumps(resolved))
        earlier = self._find_partial(resolved) if self.options.resume else None
        if earlier is None:
            self._create()
            self._open_log()
            self._write_start(resolved, decided)
            return decided
        self._take_up(earlier)
        self._open_log()
        LOGGER.info("resuming %s", earlier.name)
        self.event("resume", decided=decided)
        return {**decided, **earlier.start["decided"]}

    def _find_partial(self, resolved: Record) -> Run | None:
        """The newest partial run with the same config, inputs and version."""
        wanted = (self.stage, self.config, resolved, package_version())
        for run in reversed(list_runs(self.options.artifacts, partial=True)):
            start = run.start
            found = tuple(start.get(key) for key in ("stage", "config", "resolved", "version"))
            if run.path.name.endswith(PARTIAL) and found == wanted:
                return run
        LOGGER.info("no unfinished run has these settings and inputs; starting anew")
        return None

    def _create(self) -> None:
        """Make a hidden folder under a name that neither a run nor a partial run has."""
        artifacts = self.options.artifacts
        stem = f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{self.stage}"
        stem += f"_{self.options.label}" if self.options.label else ""
        try:
            artifacts.mkdir(parents=True, exist_ok=True)
            self._path = _reserve(artifacts, stem)
            self._acquire_lock()
        except OSError as error:
            raise _not_writable(artifacts, error) from None
        self._meta = os.open(self.path / META, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sync(artifacts)

    def _take_up(self, earlier: Run) -> None:
        """Lock a partial run and cut a torn last line off its meta file."""
        self._path = earlier.path
        try:
            self._acquire_lock()
        except BlockingIOError:
            self._path = None
            raise UserError(
                f"{earlier.name} is being written by another process; let it finish."
            ) from None
        self.resumed = True
        whole = sum(len(encode_line(record)) for record in earlier.records)
        self._meta = os.open(self.path / META, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._meta, whole)

    def _acquire_lock(self) -> None:
        """Hold the folder's lock as long as this process lives."""
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _open_log(self) -> None:
        """Copy the log into the run."""
        path = self.path / LOG
        path.parent.mkdir(exist_ok=True)
        self._log = logging.FileHandler(path, encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOGGER.addHandler(self._log)

    def _write_start(self, resolved: Record, decided: Record) -> None:
        """The first line of `meta.jsonl`."""
        self.event(
            "start",
            stage=self.stage,
            config=self.config,
            label=self.options.label,
            resolved=resolved,
            decided=decided,
            **provenance(),
        )

    def event(self, event: str, **fields: Any) -> None:
        """Append one record to `meta.jsonl` and make sure it reaches the disk."""
        record = {"event": event, "time": datetime.now(UTC).isoformat(), **fields}
        os.write(self._meta, encode_line(record))
        os.fsync(self._meta)

    def events(self, event: str) -> list[Record]:
        """The records of one kind so far, those of an interrupted try among them."""
        return Run(self.path).all_of(event)

    def input(self, run: Run) -> None:
        """Record a run that this one reads."""
        self.event("input", run=run.name, sha256=sha256_of(run.path / META))

    def output(
        self, name: str, columns: Sequence[str] | None = None, timed: Sequence[str] = ()
    ) -> None:
        """Declare a file complete; its hash is taken in the background from here on.

        Args:
            name: the file, relative to the run.
            columns: of a table, its columns.
            timed: columns that hold measured times and are exempt from reproducibility.
        """
        record: Record = {"path": name}
        if columns is not None:
            record["columns"] = list(columns)
        if timed:
            record["timed"] = list(timed)
        self._hashes[name] = (record, self._pool.submit(sha256_of, self.path / name))

    def check_disk(self, needed_bytes: int, remedy: str) -> None:
        """Raise UserError when the disk under the artifacts folder has too little room."""
        free = shutil.disk_usage(_nearest_folder(self.options.artifacts)).free
        if needed_bytes * DISK_SLACK > free:
            raise UserError(
                f"this run needs {readable_bytes(needed_bytes)} under {self.options.artifacts}/, "
                f"where {readable_bytes(free)} are free. {remedy}"
            )

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the work; `done` records its seconds."""
        began = time.monotonic()
        yield
        phases = self.summary.setdefault("phase_seconds", {})
        phases[name] = round(time.monotonic() - began, 3)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._path is None:
                return
            if error is None:
                self._publish()
            elif isinstance(error, KeyboardInterrupt):
                self.event("interrupted")
            else:
                self.event("failed", error=f"{type(error).__name__}: {error}")
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._close()

    def _publish(self) -> None:
        """Hash, seal, sync, make read-only, rename."""
        shutil.rmtree(self.path / SCRATCH, ignore_errors=True)
        done = self._done()
        LOGGER.info("finished in %s", readable_seconds(done["seconds"]))
        self._close_log()
        self._write_outputs()
        records = (self.path / META).read_bytes()
        os.write(self._meta, encode_line(seal(records, done)))
        (self.path / LOCK).unlink()
        for path in [*self.path.rglob("*"), self.path]:
            sync(path)
            path.chmod(0o555 if path.is_dir() else 0o444)
        final = self.path.with_name(Run(self.path).name)
        self.path.rename(final)
        sync(final.parent)
        self._path = final

    def _write_outputs(self) -> None:
        """One `output` record per file, in order of name, and one `log` record."""
        files = sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*"))
        for name in files:
            path = self.path / name
            if name in (META, LOCK) or path.is_dir():
                continue
            record, future = self._hashes.get(name, ({"path": name}, None))
            digest = future.result() if future else sha256_of(path)
            event = "log" if name == LOG else "output"
            self.event(event, **record, bytes=path.stat().st_size, sha256=digest)

    def _done(self) -> Record:
        """The last record: what the run took, in this try."""
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "event": "done",
            "time": datetime.now(UTC).isoformat(),
            "seconds": round(time.monotonic() - self._began, 3),
            "peak_memory_bytes": kilobytes * (1 if sys.platform == "darwin" else 1024),
            **self.summary,
        }

    def _close_log(self) -> None:
        """Stop copying the log into the run."""
        if self._log is not None:
            LOGGER.removeHandler(self._log)
            self._log.close()
            self._log = None

    def _close(self) -> None:
        """Give the lock and the files back."""
        self._close_log()
        for descriptor in (self._meta, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._meta = self._lock = -1


def check_writable(artifacts: Path) -> None:
    """Raise UserError when the folder cannot be written, or could not be created."""
    nearest = _nearest_folder(artifacts)
    if not nearest.is_dir():
        raise _not_writable(artifacts, NotADirectoryError(f"{nearest} is not a folder"))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise _not_writable(artifacts, PermissionError("permission denied"))


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the closest of its parents that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _not_writable(artifacts: Path, error: OSError) -> UserError:
    """The one sentence for an artifacts folder that refuses."""
    why = error.strerror or str(error)
    return UserError(
        f"cannot write under {artifacts}/ ({why}). Choose another folder with --artifacts."
    )


def _reserve(artifacts: Path, stem: str) -> Path:
    """Create `.stem.partial`, or `.stem_2.partial`, … : exclusive among all processes."""
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        hidden = artifacts / f".{name}{PARTIAL}"
        number += 1
        try:
            hidden.mkdir()
        except FileExistsError:
            continue
        if not (artifacts / name).exists():
            return hidden
        hidden.rmdir()

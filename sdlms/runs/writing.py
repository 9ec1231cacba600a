"""Write one run: a hidden folder under a lock, sealed, made read-only and renamed when complete.

```
with RunWriter("capture", config, options) as out:      # nothing on disk yet
    decided = out.start(resolved={...}, decided={...})   # creates the folder, or resumes one
    write(out.path / "table.csv")
    out.output("table.csv", columns=[...])
```
Leaving the block publishes the run; leaving it by an exception keeps a partial run that
`--resume` continues. With `--reuse` the block ends at `start` where the run is there already.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.runs.folder import (
    PARTIAL,
    acquire,
    bytes_on_disk,
    check_room,
    check_writable,
    is_partial,
    make_writable,
    not_writable,
    publish,
    reserve,
)
from sdlms.runs.matching import DEVICE, find_complete, find_partial
from sdlms.runs.meta import META, Record, as_read_back
from sdlms.runs.open_run import OpenRun
from sdlms.runs.provenance import provenance
from sdlms.runs.reading import Run
from sdlms.runs.verifying import differences
from sdlms.storage.files import sha256_of, sync

DISK_SLACK = 1.05
LABEL = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run goes and what it is called: nothing here changes its results."""

    artifacts: Annotated[Path, "Folder that holds the runs."] = Path("artifacts")
    label: Annotated[str | None, "Word added to the run's name."] = None
    resume: Annotated[bool, "Continue the newest unfinished run with the same settings."] = False
    reuse: Annotated[bool, "Give back the newest complete run with the same settings, if any."] = (
        False
    )

    def __post_init__(self) -> None:
        """Check the label."""
        if self.label is not None and not re.fullmatch(LABEL, self.label):
            raise UserError(
                "--label may hold letters, digits, '.', '_' and '-', 100 at most, "
                f"got '{self.label}'."
            )


class _Finished(BaseException):
    """Nothing is to be done: the run is complete, if need be but for its renaming."""


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
        self.stage, self.config, self.options = stage, as_read_back(config), options
        self.resumed = False
        self.summary: Record = {}
        self._path: Path | None = None
        self._lock = -1
        self._open_run: OpenRun | None = None
        self._needs: tuple[int, str] = (0, "")

    @property
    def path(self) -> Path:
        """The folder to write into; after the block, the finished run."""
        if self._path is None:
            raise ValueError("the run has not been started")
        return self._path

    @property
    def started(self) -> bool:
        """Whether there is a folder that `--resume` could find."""
        return self._path is not None

    @property
    def scratch(self) -> Path:
        """A folder for checkpoints; it is deleted before the run is published."""
        return self._open.scratch

    @property
    def _open(self) -> OpenRun:
        """What is written into, between start and end."""
        if self._open_run is None:
            raise ValueError("the run is not open: not started yet, or finished")
        return self._open_run

    def start(self, resolved: Record, decided: Record) -> Record:
        """Create the run, or take up one that matches.

        With `--reuse` the block ends here where a complete run matches, which `path` then is; with
        `--resume` where a partial run matches that only lacked its renaming.

        Args:
            resolved: what the inputs turned out to be: models, data, with their hashes.
            decided: what `auto` turned out to be (dtype, threads, token budget, device).

        Returns:
            The decisions to work by: `decided`, or those recorded by the run that is resumed.

        Raises:
            UserError: the folder cannot be created, or the matching run is being written.
        """
        start = {"stage": self.stage, "config": self.config, "label": self.options.label}
        start |= {"resolved": as_read_back(resolved), "decided": decided, **provenance()}
        artifacts, reuse = self.options.artifacts, self.options.reuse
        if reuse and (complete := find_complete(artifacts, start)) is not None:
            self._path = complete.path
            raise _Finished
        resume = self.options.resume
        earlier = find_partial(artifacts, start, or_anew=reuse) if resume else None
        if self._looks_back:
            needed_bytes, remedy = self._needs
            held_bytes = bytes_on_disk(earlier.path) if earlier else 0
            check_room(artifacts, needed_bytes - held_bytes, remedy)
        try:
            if earlier is not None:
                return self._take_up(earlier, decided)
            self._create(start)
        except OSError as error:
            raise not_writable(artifacts, error) from None
        return decided

    @property
    def _looks_back(self) -> bool:
        """Whether earlier runs may spare work, and room on the disk."""
        return self.options.resume or self.options.reuse

    def _create(self, start: Record) -> None:
        """Make a hidden folder under a name that no run has, and write the first line."""
        artifacts = self.options.artifacts
        stem = f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{self.stage}"
        stem += f"_{self.options.label}" if self.options.label else ""
        artifacts.mkdir(parents=True, exist_ok=True)
        path = reserve(artifacts, stem)
        with ExitStack() as undo:  # until something is written that could be resumed
            undo.callback(shutil.rmtree, path, ignore_errors=True)
            (path / META).touch()
            self._acquire(path)
            self._open_run = OpenRun(path)
            self.event("start", **start)
            undo.pop_all()
        sync(artifacts)

    def _take_up(self, earlier: Run, decided: Record) -> Record:
        """Continue a partial run behind the last whole line of its work."""
        self._acquire(earlier.path)
        earlier = Run(earlier.path)  # read anew: its writer may have lived until now
        if earlier.sealed and not differences(earlier):
            LOGGER.info("%s lacked only its last step; it is published now", earlier.name)
            raise _Finished
        recorded = earlier.start["decided"]
        for key in DEVICE:
            if recorded.get(key) != decided.get(key):
                raise UserError(
                    f"{earlier.name} was begun on {recorded.get(key)}, here it is "
                    f"{decided.get(key)}. Resume it there, or start anew without --resume."
                )
        make_writable(self.path)
        for torn in self.path.rglob(f".*{PARTIAL}"):  # of files written under a temporary name
            torn.unlink()
        self._open_run = OpenRun(self.path)
        self.resumed = True
        LOGGER.info("resuming %s", earlier.name)
        self.event("resume", decided=decided, **provenance())
        return {**decided, **recorded}

    def _acquire(self, path: Path) -> None:
        """Hold the folder's lock as long as this process lives."""
        lock = acquire(path)
        if lock is None:
            name = Run(path).name
            raise UserError(f"{name} is being written by another process; let it finish.")
        self._lock, self._path = lock, path

    def event(self, event: str, **fields: Any) -> None:
        """Append one record to `meta.jsonl` and make sure it reaches the disk."""
        self._open.meta.event(event, fields)

    def events(self, event: str) -> list[Record]:
        """The records of one kind so far, those of an interrupted try among them."""
        return Run(self.path).all_of(event)

    def input(self, run: Run) -> None:
        """Record a complete run that this one reads; once, however often it is resumed.

        Raises:
            UserError: the run that is resumed began with another one of that name.
        """
        if not run.complete:
            raise ValueError(f"{run.path} is not complete")
        read = {"run": run.name, "sha256": sha256_of(run.path / META)}
        known = [each["sha256"] for each in self.events("input") if each["run"] == run.name]
        if self.resumed and known and read["sha256"] not in known:
            raise UserError(
                f"{run.name} is not the run that {Run(self.path).name} began with (its {META} "
                "differs). Start anew without --resume."
            )
        if read["sha256"] not in known:
            self.event("input", **read)

    def output(
        self, name: str, columns: Sequence[str] | None = None, timed: Sequence[str] = ()
    ) -> None:
        """Declare a file complete; its hash is taken in the background from here on.

        The run fails if the file changes afterwards.

        Args:
            name: the file, relative to the run.
            columns: of a table, its columns.
            timed: columns that hold measured times and are exempt from reproducibility.
        """
        self._open.outputs.declare(name, columns, timed)

    def check_disk(self, needed_bytes: int, remedy: str) -> None:
        """Raise UserError when the disk under the artifacts folder has too little room.

        With `--resume` or `--reuse`, `start` does, which knows what is there already.
        """
        needed_bytes = int(needed_bytes * DISK_SLACK)
        self._needs = needed_bytes, remedy
        if not self._looks_back:
            check_room(self.options.artifacts, needed_bytes, remedy)

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
    ) -> bool:
        finished = isinstance(error, _Finished)
        try:
            if self._open_run is not None and error is not None:
                self._open_run.note_end(error)
            elif self._open_run is not None:
                self._open_run.seal(self.summary)
                finished = True
            if finished and is_partial(self.path):
                self._path = publish(self.path)
        finally:
            self._close()
        return isinstance(error, _Finished)

    def _close(self) -> None:
        """Take no more events and outputs; give the lock back last."""
        if self._open_run is not None:
            self._open_run.close()
        self._open_run = None
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

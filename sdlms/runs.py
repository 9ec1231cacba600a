"""Finished runs: find, list, verify, remove. Writing one is `sdlms/run_writer.py`.

A run is a folder `artifacts/20261120_143022_capture[_label]/` whose `meta.jsonl` describes it:
`start`, `input`, events, one `output` per file, `done`. While it is written it is hidden
(`.20261120_143022_capture.partial/`). Names are never parsed; facts come from `meta.jsonl`.
"""

import difflib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.storage.files import sha256_of
from sdlms.storage.jsonl import encode_line

META = "meta.jsonl"
LOCK = ".lock"
PARTIAL = ".partial"
Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run folder, finished or not."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name; of a partial run, the name it will get."""
        return self.path.name.removeprefix(".").removesuffix(PARTIAL)

    @cached_property
    def records(self) -> list[Record]:
        """The complete lines of `meta.jsonl` up to the first that cannot be read."""
        return list(_complete_records(self.path / META))

    def all_of(self, event: str) -> list[Record]:
        """The records of one kind, in order."""
        return [record for record in self.records if record.get("event") == event]

    @property
    def start(self) -> Record:
        """The `start` record; empty when the run was killed before it was written."""
        return next(iter(self.all_of("start")), {})

    @property
    def stage(self) -> str:
        """The stage that wrote it."""
        return str(self.start.get("stage", "?"))

    @property
    def complete(self) -> bool:
        """Whether it was published with all it promises."""
        hidden = self.path.name.startswith(".")
        return not hidden and bool(self.records) and self.records[-1].get("event") == "done"

    @property
    def status(self) -> str:
        """`complete`, `writing`, `failed`, `interrupted` or `broken`."""
        if self.complete:
            return "complete"
        if not self.path.name.startswith("."):
            return "broken"
        if is_locked(self.path):
            return "writing"
        return "failed" if self.records and self.records[-1]["event"] == "failed" else "interrupted"


def _complete_records(meta: Path) -> Iterator[Record]:
    """Parse line by line; a torn last line (kill -9) ends the reading."""
    if not meta.is_file():
        return
    for line in meta.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or "event" not in record:
            return
        yield record


def is_locked(folder: Path) -> bool:
    """Whether a living process writes this partial run."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def list_runs(artifacts: Path, *, partial: bool = False) -> list[Run]:
    """Runs under `artifacts`, oldest first; with `partial` also the unfinished ones."""
    if not artifacts.is_dir():
        return []
    folders = [path for path in artifacts.iterdir() if (path / META).is_file()]
    runs = [Run(path) for path in folders if partial or not path.name.startswith(".")]
    return sorted(runs, key=lambda run: (str(run.start.get("time", "")), run.name))


def find_run(artifacts: Path, reference: str, stage: str | None = None) -> Run:
    """The complete run that a path, a run name or `latest` means.

    Args:
        artifacts: the artifacts folder.
        reference: what the user wrote.
        stage: the stage that is expected there; None takes any.

    Raises:
        UserError: there is none, it is not complete, or it comes from another stage.
    """
    if reference == "latest":
        return _latest(artifacts, stage)
    path = Path(reference) if Path(reference).is_dir() else artifacts / reference
    run = Run(path)
    if not run.complete:
        raise UserError(_why_not_found(artifacts, reference, path))
    if stage is not None and run.stage != stage:
        raise UserError(f"{run.name} is a '{run.stage}' run; a '{stage}' run is needed here.")
    return run


def _latest(artifacts: Path, stage: str | None) -> Run:
    """The newest complete run of a stage."""
    runs = [run for run in list_runs(artifacts) if run.complete]
    if stage is not None:
        runs = [run for run in runs if run.stage == stage]
    if runs:
        return runs[-1]
    kind = f"'{stage}' run" if stage else "run"
    raise UserError(f"no completed {kind} under {artifacts}/. Make one: sdlms {stage or 'capture'}")


def _why_not_found(artifacts: Path, reference: str, path: Path) -> str:
    """One line for a reference that names no complete run."""
    if path.is_dir():
        return f"{path} is not a complete sdlms run (its {META} does not end with 'done')."
    names = [run.name for run in list_runs(artifacts)]
    close = difflib.get_close_matches(reference, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else " See: sdlms runs list"
    return f"no run '{reference}' under {artifacts}/.{hint}"


def seal(records_so_far: bytes, done: Record) -> Record:
    """`done` with the sha256 of everything before it and of itself, so that no byte can change."""
    digest = hashlib.sha256(records_so_far + encode_line(done)).hexdigest()
    return {**done, "meta_sha256": digest}


def verify(run: Run) -> list[str]:
    """Every difference between the run and its `meta.jsonl`, one sentence each.

    Checks the meta file's own seal, each file's size and sha256, that no file is missing or
    was added, and that input runs which lie beside it are still the ones that were read.
    """
    return [*_seal_differences(run), *_file_differences(run), *_input_differences(run)]


def _seal_differences(run: Run) -> Iterator[str]:
    """Compare `meta.jsonl` with the hash in its last line."""
    head, _, last = (run.path / META).read_bytes().rstrip(b"\n").rpartition(b"\n")
    if not run.complete:
        yield f"{META}: does not end with 'done'"
        return
    try:
        done = json.loads(last)
    except ValueError:
        done = {}
    written = done.pop("meta_sha256", None)
    if written is None or seal(head + b"\n", done)["meta_sha256"] != written:
        yield f"{META}: changed since it was written"


def _file_differences(run: Run) -> Iterator[str]:
    """Compare the files on disk with the `output` and `log` records."""
    recorded = {r["path"]: r for r in run.records if r["event"] in ("output", "log")}
    found = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if not p.is_dir()}
    for name in sorted(found - set(recorded) - {META}):
        yield f"{name}: added"
    for name, record in sorted(recorded.items()):
        if name not in found:
            yield f"{name}: missing"
        elif (size := (run.path / name).stat().st_size) != record["bytes"]:
            yield f"{name}: {size} bytes, {record['bytes']} recorded"
        elif sha256_of(run.path / name) != record["sha256"]:
            yield f"{name}: sha256 differs"


def _input_differences(run: Run) -> Iterator[str]:
    """Compare input runs, where they are at hand, with what was read."""
    for record in run.all_of("input"):
        meta = run.path.parent / record["run"] / META
        if meta.is_file() and sha256_of(meta) != record["sha256"]:
            yield f"input {record['run']}: its {META} differs from the one that was read"


def remove(run: Run) -> None:
    """Delete a run.

    Raises:
        UserError: another run lists it as input, or a living process writes it.
    """
    if run.status == "writing":
        raise UserError(f"{run.name} is being written by another process; stop that first.")
    for other in list_runs(run.path.parent, partial=True):
        if any(record["run"] == run.name for record in other.all_of("input")):
            raise UserError(f"{run.name} is an input of {other.name}; remove that one first.")
    for folder in [run.path, *(path for path in run.path.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
    doomed = run.path.with_name(f".{run.name}.removed")
    run.path.rename(doomed)
    shutil.rmtree(doomed)

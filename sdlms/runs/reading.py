"""Runs: find, list, remove. Written in `sdlms/runs/writing.py`, checked in `verifying.py`.

A run is a folder `artifacts/20261120_143022_capture[_label]/` whose `meta.jsonl` describes it:
`start`, `input`, events, one `output` per file, `log`, `done`. While it is written it is hidden
(`.20261120_143022_capture.partial/`). Names are never parsed; facts come from `meta.jsonl`.
"""

import difflib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.runs.folder import (
    acquire,
    has_meta,
    hidden_name,
    is_folder,
    is_locked,
    is_partial,
    make_writable,
    run_name,
)
from sdlms.runs.meta import META, Record, whole_lines
from sdlms.storage.files import sha256_of

OWN_NAME = r"\d{8}_\d{6}_."


@dataclass(frozen=True)
class Run:
    """One run folder, finished or not."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name; of a partial run, the name it will get."""
        return run_name(self.path)

    @cached_property
    def records(self) -> list[Record]:
        """The whole lines of `meta.jsonl` up to the first that cannot be read."""
        try:
            content = (self.path / META).read_bytes()
        except OSError:
            return []
        return [record for record, _ in whole_lines(content)]

    def all_of(self, event: str) -> list[Record]:
        """The records of one kind, in order."""
        return [record for record in self.records if record["event"] == event]

    @property
    def start(self) -> Record:
        """The `start` record; empty when the run was killed before it was written."""
        return next(iter(self.all_of("start")), {})

    @property
    def stage(self) -> str:
        """The stage that wrote it."""
        return str(self.start.get("stage", "?"))

    @property
    def sealed(self) -> bool:
        """Whether the last record is `done`."""
        return bool(self.records) and self.records[-1]["event"] == "done"

    @property
    def complete(self) -> bool:
        """Whether it was published with all it promises."""
        return self.sealed and not is_partial(self.path)

    @property
    def status(self) -> str:
        """`complete`, `writing`, `failed`, `interrupted` or `broken`."""
        if not is_partial(self.path):
            return "complete" if self.sealed else "broken"
        if is_locked(self.path):
            return "writing"
        return "failed" if self.records and self.records[-1]["event"] == "failed" else "interrupted"

    @property
    def age_key(self) -> tuple[str, str]:
        """Sorts by start time, then name; a lost time counts as the end of the name's second."""
        time = str(self.start.get("time", ""))
        digits = re.sub(r"\D", "", time or self.name)
        return digits if time else f"{digits[:14]}~", self.name


def list_runs(artifacts: Path, *, partial: bool = False) -> list[Run]:
    """Runs under `artifacts`, oldest first; with `partial` also the unfinished ones."""
    try:
        paths = list(artifacts.iterdir()) if artifacts.is_dir() else []
    except OSError as error:
        raise UserError(f"cannot read {artifacts}/ ({error.strerror}).") from None
    folders = [path for path in paths if is_folder(path)]
    runs = [Run(path) for path in folders if not path.name.startswith(".") and has_meta(path)]
    if partial:
        runs += [Run(path) for path in folders if is_partial(path)]
    return sorted(runs, key=lambda run: run.age_key)


def find_run(artifacts: Path, reference: str, *stages: str) -> Run:
    """The complete run that a path, a run name or `latest` means.

    Args:
        artifacts: the artifacts folder.
        reference: what the user wrote.
        stages: whose runs are read there; `latest` is the newest of the first. Without them, any.

    Raises:
        UserError: there is none, it is not complete, or it comes from another stage.
    """
    if reference == "latest":
        return _latest(artifacts, *stages[:1])
    run = find_any(artifacts, reference)
    if is_partial(run.path):
        raise UserError(f"{run.name} is not finished ({run.status}); only complete runs are read.")
    if not run.complete:
        raise UserError(f"{run.path} is no complete run (its {META} does not end with 'done').")
    if stages and run.stage not in stages:
        wanted = " or ".join(f"'{stage}'" for stage in stages)
        raise UserError(f"{run.name} is a '{run.stage}' run; a {wanted} run is needed here.")
    return run


def _latest(artifacts: Path, stage: str | None = None) -> Run:
    """The newest complete run of a stage; a damaged one that is newer is pointed out."""
    for run in reversed(list_runs(artifacts)):
        if run.complete and stage in (None, run.stage):
            LOGGER.info("latest%s: %s", f" {stage} run" if stage else "", run.name)
            return run
        if not run.complete and (stage is None or run.stage in (stage, "?")):
            LOGGER.warning("%s is damaged and passed over; see: sdlms runs verify", run.name)
    kind = f"'{stage}' run" if stage else "run"
    raise UserError(f"no completed {kind} under {artifacts}/. Make one: sdlms {stage or 'capture'}")


def find_any(artifacts: Path, reference: str) -> Run:
    """The run in any state that a path or a name means; `latest` is the newest published one.

    Raises:
        UserError: there is no such folder.
    """
    if not reference.strip():
        raise UserError("no run is named. Give its name, its path, or latest.")
    if reference == "latest":
        published = list_runs(artifacts)
        return published[-1] if published else _latest(artifacts)
    places = _places(reference)
    if Path(reference).name == reference:  # a bare name: in the artifacts folder first
        places.insert(0, artifacts / reference)
    for place in places:
        for folder in (place, place.parent / hidden_name(place.name)):
            if is_folder(folder):
                return Run(folder)
    if inside := [place for place in places if has_meta(place.parent) and _is_file(place)]:
        folder = inside[0].parent
        raise UserError(f"{reference} is no run, but lies in one. Give the run's folder: {folder}")
    known = ["latest", *(run.name for run in list_runs(artifacts, partial=True))]
    close = difflib.get_close_matches(reference, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else " See: sdlms runs list"
    raise UserError(f"no run '{reference}' under {artifacts}/.{hint}")


def _is_file(path: Path) -> bool:
    """Whether it is a file; False where it cannot be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def _places(reference: str) -> list[Path]:
    """Where a path leads; nowhere when it is none."""
    try:
        return [Path(reference).resolve()] if reference else []
    except (OSError, ValueError):
        return []


def removable(runs: Sequence[Run]) -> list[Run]:
    """The runs, each once, in the order to remove them in: the newest, which reads, goes first.

    Raises:
        UserError: one is no run, is being written, or is an input of a run that would stay.
    """
    doomed = {run.path.resolve(): run for run in runs}
    for run in doomed.values():
        if not _is_ours(run):
            raise UserError(f"{run.path} is no run, going by its name and {META}; it stays.")
        if run.path.is_symlink():
            raise UserError(f"{run.path} is a link; name the folder it points to.")
        if run.status == "writing":
            raise UserError(f"{run.name} is being written by another process; stop that first.")
        for other in list_runs(run.path.parent, partial=True):
            if other.path.resolve() not in doomed and _reads(other, run):
                raise UserError(f"{run.name} is an input of {other.name}; remove that one first.")
    return sorted(doomed.values(), key=lambda run: run.age_key, reverse=True)


def _is_ours(run: Run) -> bool:
    """Whether a folder, damaged perhaps, is a run beyond doubt; no other folder goes."""
    named = re.match(OWN_NAME, run.name) is not None
    return "stage" in run.start or (named and (is_partial(run.path) or has_meta(run.path)))


def _reads(reader: Run, run: Run) -> bool:
    """Whether one run lists the other as input: by name, or by content if it was renamed."""
    records = reader.all_of("input")
    if not records or not has_meta(run.path):
        return False
    digest = sha256_of(run.path / META)
    return any(run.name == r.get("run") or digest == r.get("sha256") for r in records)


def remove(run: Run) -> None:
    """Delete a run. Killed half-way, it leaves an unfinished run that can be removed again.

    Raises:
        UserError: another run lists it as input, a living process writes it, or it resists.
    """
    removable([run])
    descriptor = acquire(run.path) if has_meta(run.path) else None
    if descriptor is None and has_meta(run.path):
        raise UserError(f"{run.name} was taken up by another process meanwhile.")
    try:
        hidden = run.path.with_name(hidden_name(run.name))
        run.path.rename(hidden)
        make_writable(hidden)
        (hidden / META).unlink(missing_ok=True)  # without it nobody can resume the rest
        shutil.rmtree(hidden)
    except OSError as error:
        raise UserError(f"cannot remove {run.path} ({error.strerror}).") from None
    finally:
        if descriptor is not None:
            os.close(descriptor)

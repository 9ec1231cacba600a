"""Whether finished runs are as they were written: every byte, or one small file."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from sdlms.errors import UserError
from sdlms.runs.folder import contents, is_partial
from sdlms.runs.meta import META, Record, seal_difference
from sdlms.runs.reading import Run
from sdlms.storage.files import sha256_of


def verify(run: Run) -> list[str]:
    """Every difference between the run and its `meta.jsonl`, one sentence each.

    Checks the meta file's own seal, each file's size and sha256, that no file or folder is
    missing or was added, and that input runs which lie beside it are the ones that were read.
    """
    if is_partial(run.path):
        return [f"not published ({run.status})"]
    return differences(run)


def differences(run: Run) -> list[str]:
    """What `verify` reports, of a run that need not be published yet."""
    if difference := seal_difference(run.path / META):
        return [f"{META}: {difference}; its other files cannot be checked without it"]
    return [*_file_differences(run, _content_difference), *_input_differences(run)]


def differences_at_a_glance(run: Run) -> list[str]:
    """As `differences`, but of the files' names and sizes alone: no content is read."""
    if difference := seal_difference(run.path / META):
        return [f"{META}: {difference}"]
    return list(_file_differences(run, _size_difference))


def _file_differences(run: Run, compare: Callable[[Path, Record], str | None]) -> Iterator[str]:
    """Compare the files on disk with the `output` and `log` records."""
    recorded = {record["path"]: record for record in [*run.all_of("output"), *run.all_of("log")]}
    files, folders = contents(run.path)
    expected = {str(parent) for name in recorded for parent in PurePosixPath(name).parents}
    for name in sorted((files - set(recorded) - {META}) | (folders - expected)):
        yield f"{name.encode(errors='backslashreplace').decode()}: added"
    for name, record in sorted(recorded.items()):
        if name not in files:
            yield f"{name}: missing"
        elif difference := compare(run.path / name, record):
            yield f"{name}: {difference}"


def _size_difference(path: Path, record: Record) -> str | None:
    """Compare a file's kind and size with its record."""
    if path.is_symlink() or not path.is_file():
        return "no plain file any more"
    size = path.stat().st_size
    return None if size == record["bytes"] else f"{size} bytes, {record['bytes']} recorded"


def _content_difference(path: Path, record: Record) -> str | None:
    """Compare one file with its record."""
    if difference := _size_difference(path, record):
        return difference
    try:
        return None if sha256_of(path) == record["sha256"] else "sha256 differs"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def intact(run: Run, name: str) -> Path:
    """A small file of a finished run, which is as it was written.

    Raises:
        UserError: the run has no such file, or it has changed since, or is gone.
    """
    path = run.path / name
    record = next((record for record in run.all_of("output") if record["path"] == name), None)
    if record is None:
        raise UserError(f"{run.name} holds no {name}.")
    difference = _content_difference(path, record)
    if difference is not None:
        raise UserError(f"{path} is damaged ({difference}). See: sdlms runs verify {run.name}")
    return path


def _input_differences(run: Run) -> Iterator[str]:
    """Compare input runs, where they are at hand, with what was read."""
    for record in run.all_of("input"):
        meta = run.path.parent / record["run"] / META
        if meta.is_file() and sha256_of(meta) != record["sha256"]:
            yield f"input {record['run']}: its {META} differs from the one that was read"

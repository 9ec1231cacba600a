"""A run's folder on disk: its hidden name, its lock, what lies in it, and who may write there.

The lock lies on `meta.jsonl` itself, which is there from the folder's first moment to its last:
there is no moment at which the run of a living process looks abandoned.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sdlms.errors import UserError
from sdlms.progress import readable_bytes
from sdlms.runs.meta import META
from sdlms.storage.files import sync

PARTIAL = ".partial"
SCRATCH = ".scratch"
LOCK_TRIES = 20
LOCK_WAIT_SECONDS = 0.01


def hidden_name(name: str) -> str:
    """What the folder of run `name` is called while it is written."""
    return f".{name}{PARTIAL}"


def is_partial(folder: Path) -> bool:
    """Whether the folder bears the name of an unfinished run."""
    return folder.name.startswith(".") and folder.name.endswith(PARTIAL)


def run_name(folder: Path) -> str:
    """The folder's name; of an unfinished run, the name it will get."""
    if is_partial(folder):
        return folder.name.removeprefix(".").removesuffix(PARTIAL)
    return folder.name


def is_folder(path: Path) -> bool:
    """Whether it is a folder; False where it cannot be looked at."""
    try:
        return path.is_dir()
    except OSError:
        return False


def has_meta(folder: Path) -> bool:
    """Whether the folder holds a `meta.jsonl` and may be looked into."""
    try:
        return (folder / META).is_file()
    except OSError:
        return False


def reserve(artifacts: Path, stem: str) -> Path:
    """Create `.stem.partial`, or `.stem_2.partial`, … : exclusive among all processes."""
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        hidden = artifacts / hidden_name(name)
        number += 1
        try:
            hidden.mkdir()
        except FileExistsError:
            continue
        if not (artifacts / name).exists():
            return hidden
        hidden.rmdir()


def acquire(folder: Path) -> int | None:
    """Lock a folder as its only writer, until the returned descriptor is closed.

    Returns:
        The descriptor; None while another process writes the run, or when it is there no more.
    """
    meta = folder / META
    try:
        descriptor = _open_to_lock(meta)
    except FileNotFoundError:
        return None
    for _ in range(LOCK_TRIES):  # `is_locked` of another process may hold it for a moment
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_WAIT_SECONDS)
            continue
        if meta.exists() and os.path.samestat(os.fstat(descriptor), meta.stat()):
            return descriptor
        break  # published or removed meanwhile: what was locked lies elsewhere
    os.close(descriptor)
    return None


def _open_to_lock(meta: Path) -> int:
    """Open for writing, as network file systems want for a lock; for reading where read-only."""
    try:
        return os.open(meta, os.O_RDWR)
    except PermissionError:
        return os.open(meta, os.O_RDONLY)


def is_locked(folder: Path) -> bool:
    """Whether a living process writes this run."""
    try:
        descriptor = os.open(folder / META, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared, so that two who ask at once do not take each other for the writer.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def contents(folder: Path) -> tuple[set[str], set[str]]:
    """Names of all files (links and the like among them) and of all folders below `folder`.

    The scratch folder of an unfinished run is passed over.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for parent, below, names in os.walk(folder):
        if is_partial(folder) and Path(parent) == folder and SCRATCH in below:
            below.remove(SCRATCH)
        for name in [*below, *names]:
            path = Path(parent, name)
            kind = folders if name in below and not path.is_symlink() else files
            kind.add(path.relative_to(folder).as_posix())
    return files, folders


def bytes_on_disk(folder: Path) -> int:
    """What the folder's files take on the disk; files that vanish meanwhile count nothing."""
    return sum(
        _allocated(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names
    )


def _allocated(path: Path) -> int:
    """The blocks of one file, in bytes."""
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0


def remove_empty_folders(folder: Path) -> None:
    """Drop folders that hold nothing, since no record could tell of them."""
    for parent in _bottom_up(folder):
        if parent != folder and not any(parent.iterdir()):
            parent.rmdir()


def make_read_only(folder: Path) -> None:
    """Files 0444, folders 0555 and synced, the folder itself last."""
    for parent in _bottom_up(folder):
        for path in parent.iterdir():
            if not path.is_dir():
                path.chmod(0o444)
        sync(parent)
        parent.chmod(0o555)


def publish(folder: Path) -> Path:
    """Drop a sealed run's scratch, make it read-only, and give it its name."""
    if (folder / SCRATCH).exists():
        shutil.rmtree(folder / SCRATCH)
    make_read_only(folder)
    final = folder.with_name(run_name(folder))
    folder.rename(final)
    sync(final.parent)
    return final


def make_writable(folder: Path) -> None:
    """Let the owner write into the folder again, whatever of it was made read-only."""
    folder.chmod(folder.stat().st_mode | 0o700)
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_dir():
            make_writable(path)
        else:
            path.chmod(path.stat().st_mode | 0o200)


def _bottom_up(folder: Path) -> Iterator[Path]:
    """The folders below and the folder itself, the deepest first; links are not followed."""
    for parent, _, _ in os.walk(folder, topdown=False):
        yield Path(parent)


def check_writable(artifacts: Path) -> None:
    """Raise UserError when the folder cannot be written, or could not be created."""
    check_no_file(artifacts)
    nearest = _nearest_existing(artifacts)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise not_writable(artifacts, f"{nearest} may not be written")


def check_no_file(folder: Path, flag: str = "--artifacts") -> None:
    """Raise UserError where a file, or something else that is no folder, stands in a folder's way.

    Args:
        folder: need not exist.
        flag: that names it.
    """
    try:
        nearest = _nearest_existing(folder)
    except OSError as error:
        raise not_writable(folder, error, flag) from None
    if not nearest.is_dir():
        raise not_writable(folder, f"{nearest} is not a folder", flag)


def check_room(artifacts: Path, needed_bytes: int, remedy: str) -> None:
    """Raise UserError when the disk under the artifacts folder has too little room."""
    free = shutil.disk_usage(_nearest_existing(artifacts)).free
    if needed_bytes > free:
        raise UserError(
            f"this run needs {readable_bytes(needed_bytes)} under {artifacts}/, "
            f"where {readable_bytes(free)} are free. {remedy}"
        )


def _nearest_existing(path: Path) -> Path:
    """The path itself, or the closest of its parents that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def not_writable(folder: Path, why: OSError | str, flag: str = "--artifacts") -> UserError:
    """The one sentence for a folder that refuses."""
    said = why if isinstance(why, str) else why.strerror or str(why)
    return UserError(f"cannot write under {folder}/ ({said}). Choose another folder with {flag}.")

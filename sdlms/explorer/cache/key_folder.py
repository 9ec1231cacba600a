"""The folder of one model's conversations, and what lies in it and in those beside it."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.storage.conversations import quarantine
from sdlms.storage.files import sync, write_atomically, write_errors

VERSION = 1
KEY = ".key.json"  # a conversation may be called "key", but not ".key"
LOCK = ".lock"
RECORD, ROWS, PERSISTED = ".json", ".h5", ".persisted"
BLOCK_BYTES = 512  # of st_blocks
TRIAL_BYTES = 64 << 10
_FOLDER = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"([A-Za-z0-9_-]{1,64})(\.json|\.h5|\.persisted)(\.damaged-\d+)?")
_UNFINISHED = re.compile(r"\.+[A-Za-z0-9_-]{1,64}\.(json|h5)(\.growing|\.new|\.partial)+")


@dataclass
class Stored:
    """What a folder holds of one conversation.

    Attributes:
        used: time of the last use, seconds since 1970.
        n_bytes: that its files take, damaged ones among them.
        damaged_bytes: of those that were put aside.
        has_record: it can be opened again.
        persisted: it is exempt from eviction.
    """

    used: float = 0.0
    n_bytes: int = 0
    damaged_bytes: int = 0
    has_record: bool = False
    persisted: bool = False


def key_folder(cache: Path, key: Mapping[str, Any]) -> Path:
    """Where conversations with this model, dtype, tokenizer and template lie."""
    return cache / hashlib.sha256(_key_text(key)).hexdigest()[:16]


def _key_text(key: Mapping[str, Any]) -> bytes:
    """The key and the version of the format, always spelt alike."""
    return json.dumps({**key, "format_version": VERSION}, sort_keys=True).encode()


def open_key_folder(folder: Path, key: Mapping[str, Any]) -> int:
    """Make the folder where there is none, and lock it as its only user.

    Returns:
        A descriptor: the lock is held until it is closed.

    Raises:
        UserError: it cannot be written, is in use, or holds conversations of another key.
    """
    with write_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with write_errors(folder / LOCK):
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        if not _is_locked_now(descriptor):
            raise UserError(f"{folder} is in use by another explorer.")
        _check_key(folder, key)
        _remove_leftovers(folder)
        undo.pop_all()
    return descriptor


def _is_locked_now(descriptor: int) -> bool:
    """Take the lock where nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another's, or a file system without locks
        return False
    return True


def _check_key(folder: Path, key: Mapping[str, Any]) -> None:
    """Write the key down, unless it is; refuse a folder with another one."""
    path, text = folder / KEY, _key_text(key)
    if is_obstructed(path):
        quarantine(path)
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_bytes()) == json.loads(text):
            return  # a full disk is still read
        raise UserError(f"{folder} holds conversations of another model.")
    write_atomically(path, text)


def _remove_leftovers(folder: Path) -> None:
    """Remove what a crash left half-made, and rows and marks without a record."""
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):  # it stays then, and disturbs nobody
                _remove_file(path)
    for conversation, found in scan(folder).items():
        if not found.has_record and not found.damaged_bytes:
            with contextlib.suppress(OSError):
                remove_files(folder, conversation)


def check_writing(folder: Path) -> None:
    """Write a little, and remove it.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    trial = folder / ".trial.json.partial"  # what a crash leaves is removed at the next start
    with write_errors(folder):
        try:
            with trial.open("wb") as file:
                file.write(bytes(TRIAL_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            trial.unlink(missing_ok=True)


def is_obstructed(path: Path) -> bool:
    """Whether something has a file's name and is none: a folder, a pipe, a link."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def scan(folder: Path) -> dict[str, Stored]:
    """The conversations of a folder, by id; all else is passed over, folders and links too.

    Raises:
        OSError: the folder cannot be read.
    """
    stored: dict[str, Stored] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (match := _FILE.fullmatch(entry.name)):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # its owner removed it meanwhile
                continue
            if not stat.S_ISREG(status.st_mode):
                continue
            conversation, suffix, damaged = match.groups()
            found = stored.setdefault(conversation, Stored())
            found.n_bytes += status.st_blocks * BLOCK_BYTES
            found.used = max(found.used, status.st_mtime)
            if damaged:
                found.damaged_bytes += status.st_blocks * BLOCK_BYTES
            found.has_record |= suffix == RECORD and not damaged
            found.persisted |= suffix == PERSISTED
    return stored


def remove_files(folder: Path, conversation: str) -> None:
    """Remove all files of a conversation, its record first; a folder of that name stays.

    Raises:
        OSError: one cannot be removed.
    """
    for suffix in (RECORD, PERSISTED, ROWS):
        _remove_file(folder / f"{conversation}{suffix}")
    for path in folder.glob(f"{conversation}.*.damaged-*"):
        _remove_file(path)
    sync(folder)


def _remove_file(path: Path) -> None:
    """Remove a file, unless there is none, or a folder."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


def other_folders(folder: Path) -> Iterator[Path]:
    """The folders of other keys in the same cache."""
    with contextlib.suppress(OSError):
        for path in folder.parent.iterdir():
            if path != folder and _FOLDER.fullmatch(path.name) and (path / KEY).is_file():
                yield path


@contextlib.contextmanager
def borrowed(folder: Path) -> Iterator[bool]:
    """A block in which another key's folder is locked; gives False where it is in use.

    Raises:
        OSError: the folder cannot be written.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _is_locked_now(descriptor)
    finally:
        os.close(descriptor)

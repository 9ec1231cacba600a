import errno
import os
import resource
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from sdlms.explorer.cache.columns import packed
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.levels import Levels, disk_of
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.writer import Job
from tests.explorer.cached_rows import KEY, NO_LIMITS, SMALL, are_equal, random_rows

ROWS = packed(SMALL, "logit", random_rows("logit", 3, seed=0))


def opened(folder: Path | None, limits: CacheLimits = NO_LIMITS) -> tuple[Levels, list[str]]:
    said: list[str] = []
    notices = Notices(said.append)
    return Levels(disk_of(folder, KEY, SMALL, notices.say), SMALL, limits, notices), said


def write(levels: Levels, conversation: str) -> None:
    """Have rows of three tokens written."""
    assert levels.disk is not None
    act = partial(levels.disk.write_rows, conversation, "logit", 0, ROWS)
    with levels.changed:
        levels.submit(Job(conversation, act, "logit", 0, 3))
        levels.writer.wait_for(lambda job: True)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_a_folder_nothing_is_said(tmp_path: Path) -> None:
    levels, said = opened(None)
    assert levels.is_memory_only and not levels.disk_bytes and not said
    assert not levels.stored_ids() and levels.read_record("c") is None
    assert not levels.read_rows("c", "logit", [1, 2], [0]).present.any()
    levels.close()


def test_a_failed_write_ends_writing_but_not_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, said = opened(tmp_path)
    write(levels, "old")
    with monkeypatch.context() as patched:
        patched.setattr(DiskLevel, "write_rows", full)
        write(levels, "new")
    assert levels.is_memory_only
    assert len(said) == 1 and "No space left on device" in said[0] and "memory only" in said[0]
    write(levels, "later")
    assert not levels.disk_has_rows("new", "logit")
    assert not levels.disk_has_rows("later", "logit")
    assert levels.disk_has_rows("old", "logit")
    assert levels.read_rows("old", "logit", range(3), range(3)).present.all()
    write(levels, "old")  # from now on the disk's rows of it are old
    assert not levels.disk_has_rows("old", "logit")
    levels.close()


def test_jobs_behind_a_failed_one_are_not_done(tmp_path: Path) -> None:
    levels, _ = opened(tmp_path)
    gate, done = threading.Event(), []

    def fail() -> None:
        gate.wait(10)
        full()

    with levels.changed:
        levels.submit(Job("a", fail, "logit"))
        levels.submit(Job("b", lambda: done.append("b"), "logit"))
        gate.set()
        levels.writer.wait_for(lambda job: True)
    assert not done
    assert not levels.disk_has_rows("a", "logit") and not levels.disk_has_rows("b", "logit")
    levels.close()


def test_a_conversation_that_cannot_be_removed_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, said = opened(tmp_path)
    assert levels.disk is not None
    levels.disk.write_record("c", b"{}")
    with monkeypatch.context() as patched, levels.changed:
        patched.setattr(DiskLevel, "delete", full)
        levels.delete("c")
    assert said and not levels.stored_ids() and not levels.disk_has_record("c")
    levels.close()


def test_a_full_disk_can_still_be_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels, _ = opened(tmp_path)
    assert levels.disk is not None
    levels.disk.write_record("c", b"{}")
    with monkeypatch.context() as patched:
        patched.setattr(DiskLevel, "write_rows", full)
        write(levels, "d")
    with levels.changed:
        levels.delete("c")
    assert not list(tmp_path.glob("*/c.*"))
    levels.close()


def test_rows_that_were_read_before_a_change_are_not_taken_into_memory() -> None:
    levels, _ = opened(None)
    with levels.changed:
        version = levels.versions.get("c")
        levels.promote("c", "logit", range(3), ROWS, version)
        assert levels.memory.marks("c", "logit", 3).all()
        levels.memory.remove("c")
        levels.note_change("c")
        levels.promote("c", "logit", range(3), ROWS, version)
        assert not levels.memory.marks("c", "logit", 3).any()
    levels.close()


def test_what_is_not_used_leaves_the_memory_by_itself(tmp_path: Path) -> None:
    levels, _ = opened(tmp_path, CacheLimits(memory_seconds=0.05))
    with levels.changed:
        levels.memory.put("c", "logit", range(3), ROWS, time.monotonic())
    for _ in range(200):
        with levels.changed:
            if not levels.memory.used_bytes:
                break
        time.sleep(0.02)
    assert not levels.memory.used_bytes
    levels.close()


def test_what_the_disk_evicts_leaves_the_memory_too(tmp_path: Path) -> None:
    levels, _ = opened(tmp_path, CacheLimits(disk_bytes=1))
    assert levels.disk is not None
    with levels.changed:
        levels.memory.put_record("old", b"{}", True, time.monotonic())
    levels.disk.write_record("old", b"{}")
    write(levels, "new")
    for _ in range(200):
        if "old" not in levels.stored_ids():
            break
        time.sleep(0.02)
    with levels.changed:
        assert levels.memory.ids() == [] and levels.stored_ids() == set()
    assert levels.read_rows("new", "logit", range(3), range(3)).present.all()
    levels.close()


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    levels, _ = opened(tmp_path)
    write(levels, "c")
    levels.close()
    levels.close()
    with levels.changed:
        levels.submit(Job("c", lambda: None, "logit"))
        levels.delete("c")
    assert not are_equal(levels.read_rows("c", "logit", range(3), range(3)).arrays, ROWS)


def test_a_conversation_that_cannot_be_removed_does_not_end_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, said = opened(tmp_path)
    assert levels.disk is not None
    levels.disk.write_record("c", b"{}")
    with monkeypatch.context() as patched, levels.changed:
        patched.setattr(DiskLevel, "delete", full)
        levels.delete("c")
    assert not levels.is_memory_only and "cannot remove c" in said[0]
    write(levels, "d")
    assert levels.read_rows("d", "logit", range(3), range(3)).present.all()
    levels.close()


def test_where_nothing_is_written_rows_before_a_change_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels, _ = opened(tmp_path)
    write(levels, "old")
    with monkeypatch.context() as patched:
        patched.setattr(DiskLevel, "write_rows", full)
        write(levels, "new")
    with levels.changed:
        levels.submit(Job("old", lambda: None, "all", 2))  # the rest was to be forgotten
        levels.submit(Job("old", lambda: None, "record"))
    stored = levels.read_rows("old", "logit", [2, 0, 1], range(3))
    assert list(stored.present) == [False, True, True]
    assert not any(array[0].any() for array in stored.arrays.values())
    assert list(levels.marks("old", "logit", 4)) == [True, True, False, False]
    levels.close()


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    levels, said = opened(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        write(levels, "c")  # HDF5 fails here
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(said) == 1 and "File too large" in said[0] and "\n" not in said[0]
    levels.close()

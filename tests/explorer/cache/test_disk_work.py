"""Writes that fail: of one conversation, of the whole folder; and what becomes of them later."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdlms.explorer.cache import disk_work, outage
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.outage import WORKS_AGAIN
from sdlms.storage.token_rows import TokenRows
from tests.explorer.cached_rows import (
    GROUPS,
    are_equal,
    fill,
    holds,
    open_cache,
    random_rows,
    settle,
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again after each job."""
    for module in (outage, disk_work):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


def folder_of(cache: Path) -> Path:
    return next(cache.glob("*/.lock")).parent


def warnings(cache: Cache) -> list[str]:
    return [str(text) for text in cache.status()["warnings"]]


@contextmanager
def no_room() -> Iterator[None]:
    """No byte can be written to any file; files can be made, renamed and removed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("blocked", ["..c.h5.new.partial", ".c.json.partial"])
@pytest.mark.parametrize("ends", ["at rest", "at the end"])
def test_one_conversation_falls_behind_and_catches_up(
    tmp_path: Path, blocked: str, ends: str
) -> None:
    with open_cache(tmp_path) as cache:
        block = folder_of(tmp_path) / blocked
        block.mkdir()
        for name in "cd":
            fill(cache, name)
        settle(cache)
        assert not cache.status()["memory_only"]
        assert cache.wait_for_record("d")
        assert cache.wait_for_record("c") == (blocked != ".c.json.partial")
        assert len(warnings(cache)) == 1 and "conversation c stays in memory" in warnings(cache)[0]
        assert all(holds(cache, name) for name in "cd")
        block.rmdir()
        if ends == "at rest":
            settle(cache)
            assert cache.wait_for_record("c") and not warnings(cache)
    with open_cache(tmp_path) as cache:
        assert all(holds(cache, name) for name in "cd")


def test_a_mark_that_cannot_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        with monkeypatch.context() as patched:
            patched.setattr(DiskLevel, "set_persisted", fail)
            cache.set_persisted("c", True)
            settle(cache)
            assert len(warnings(cache)) == 1 and cache.persisted("c")
            fill(cache, "d")
        settle(cache)
        assert not warnings(cache)
    with open_cache(tmp_path) as cache:
        assert cache.persisted("c") and holds(cache, "d")


def test_a_folder_that_is_back_has_all_that_came_meanwhile(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "before")
        settle(cache)
        folder, away = folder_of(tmp_path), tmp_path / "away"
        folder.rename(away)
        fill(cache, "before", seed=1)
        fill(cache, "new")
        assert not cache.wait_for_record("new")
        assert cache.status()["memory_only"] and "memory only" in warnings(cache)[0]
        assert holds(cache, "before", seed=1) and holds(cache, "new")
        away.rename(folder)
        settle(cache)
        assert not cache.status()["memory_only"] and warnings(cache) == [WORKS_AGAIN]
        assert cache.wait_for_record("new")
    with open_cache(tmp_path) as cache:
        assert holds(cache, "before", seed=1) and holds(cache, "new")


def test_after_an_outage_the_next_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_work, "RETRY_SECONDS", 1000.0)
    with open_cache(tmp_path) as cache:
        settle(cache)
        with no_room():
            fill(cache, "c")
            settle(cache)
            assert cache.status()["memory_only"] and "File too large" in warnings(cache)[0]
        cache.save_record("d", {})
        assert cache.wait_for_record("d") and not cache.status()["memory_only"]
        settle(cache)
        assert cache.wait_for_record("c")  # it is due with the end of the outage
    with open_cache(tmp_path) as cache:
        assert holds(cache, "c")


def test_what_could_not_be_stored_until_the_end_is_said(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        with no_room():
            fill(cache, "c")
            cache.close()
        assert "1 conversations could not be stored: c." in warnings(cache)


def test_new_words_are_never_found_with_old_rows(tmp_path: Path) -> None:
    """What a process that is killed after an outage leaves behind."""
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        with no_room():
            cache.truncate("c", 2)
            settle(cache)
            assert [int(cache.present("c", group, 5).sum()) for group in GROUPS] == [2, 2, 2]
            assert cache.get("c", "logit", range(5)).present.tolist() == [True] * 2 + [False] * 3
        cache.save_record("c", {"name": "another"})
        assert cache.wait_for_record("c")
        rows = TokenRows(folder_of(tmp_path) / "c.h5", "c")
        assert [int(rows.marks(group, 5).sum()) for group in GROUPS] == [2, 2, 2]
        rows.close()


def test_old_rows_that_cannot_be_forgotten_are_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        with monkeypatch.context() as patched:
            patched.setattr(TokenRows, "truncate", fail)
            cache.truncate("c", 2)
            cache.save_record("c", {"name": "another"})
            assert cache.wait_for_record("c") and not cache.status()["memory_only"]
        assert (folder_of(tmp_path) / "c.h5.damaged-1").exists()
        found = cache.get("c", "logit", range(5))  # memory still had the first two
        assert found.present.tolist() == [True] * 2 + [False] * 3
        rows = {name: array[:2] for name, array in random_rows("logit", 5, 0).items()}
        assert are_equal({name: array[:2] for name, array in found.arrays.items()}, rows)


def test_a_damaged_file_is_no_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that turns out to be damaged while it is written: it is put aside for another."""
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        path = folder_of(tmp_path) / "c.h5"
        more = random_rows("logit", 500, seed=1)  # more than there is room for: it moves
        whole = bytearray(path.read_bytes())
        whole[-20] ^= 1
        with monkeypatch.context() as patched:
            patched.setattr("sdlms.storage.token_rows.create_rows", damaged_copy(bytes(whole)))
            cache.put("c", "logit", 0, more)
            settle(cache)
        assert not cache.status()["memory_only"] and cache._writer.is_alive
        assert path.with_name("c.h5.damaged-1").exists()
        cache.save_record("c", {"name": "c"})
    with open_cache(tmp_path) as cache:
        assert are_equal(cache.get("c", "logit", range(500)).arrays, more)


def damaged_copy(content: bytes):  # noqa: ANN201
    """Makes a file that is not what it ought to be."""

    def create(path: Path, *asked: object) -> None:
        path.write_bytes(content)

    return create


def test_a_conversation_that_could_not_be_removed_is_removed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        with monkeypatch.context() as patched:
            patched.setattr(DiskLevel, "delete", fail)
            assert cache.delete("c")
            assert cache.ids() == [] and "cannot remove c" in warnings(cache)[0]
            assert cache.record("c") is None and not cache.present("c", "logit", 5).any()
            assert not cache.status()["memory_only"]
        assert list(folder_of(tmp_path).glob("c.*"))
        settle(cache)
        assert not list(folder_of(tmp_path).glob("c.*")) and not warnings(cache)


def test_a_name_that_is_taken_again_before_its_files_are_gone_has_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        with monkeypatch.context() as patched:
            patched.setattr(DiskLevel, "delete", fail)
            cache.delete("c")
        cache.save_record("c", {"name": "another"})
        assert cache.wait_for_record("c")
    with open_cache(tmp_path) as cache:
        assert cache.record("c") == {"name": "another"}
        assert not any(cache.present("c", group, 5).any() for group in GROUPS)


def test_what_comes_while_deleted_files_stay_is_stored_once_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        with monkeypatch.context() as patched:
            patched.setattr(DiskLevel, "delete", fail)
            cache.delete("c")
            fill(cache, "c", seed=1)
            settle(cache)
        settle(cache)
    with open_cache(tmp_path) as cache:
        assert holds(cache, "c", seed=1)

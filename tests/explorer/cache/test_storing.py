import time
from pathlib import Path

import pytest

from sdlms.explorer.cache.columns import packed
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.eviction import DiskBounds
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.storing import Storing
from sdlms.explorer.cache.writer import Job
from tests.explorer.cached_rows import (
    KEY,
    NO_LIMITS,
    SMALL,
    fill,
    holds,
    open_cache,
    random_rows,
    settle,
)

ROWS = packed(SMALL, "logit", random_rows("logit", 3, seed=0))


def opened(folder: Path | None, limits: CacheLimits = NO_LIMITS) -> tuple[Storing, list[str]]:
    said: list[str] = []
    notices = Notices(said.append)
    disk = None if folder is None else DiskLevel(folder, KEY, SMALL, notices.say)
    return Storing(disk, SMALL, limits, notices), said


def test_without_a_folder_nothing_is_said() -> None:
    storing, said = opened(None)
    with storing.changed:
        storing.submit(Job("c", lambda: None, "logit"))
        storing.submit_record("c")
        storing.delete("c")
        assert storing.is_memory_only and not storing.disk_bytes
        assert not storing.stored_ids() and not storing.is_stored("c")
    storing.close()
    assert not said


def test_what_is_not_used_leaves_the_memory_by_itself(tmp_path: Path) -> None:
    storing, _ = opened(tmp_path, CacheLimits(memory_seconds=0.05))
    with storing.changed:
        storing.memory.put("c", "logit", range(3), ROWS, time.monotonic())
    for _ in range(200):
        with storing.changed:
            if not storing.memory.used_bytes:
                break
        time.sleep(0.02)
    assert not storing.memory.used_bytes
    storing.close()


def test_what_the_disk_evicts_leaves_the_memory_too_and_is_counted(tmp_path: Path) -> None:
    with open_cache(tmp_path, CacheLimits(disk_bytes=1)) as cache:
        for name in ("old", "new"):
            fill(cache, name)
            settle(cache)
        assert cache.ids() == ["new"] and holds(cache, "new")
        assert not cache.present("old", "logit", 5).any()
        assert (cache.n_evictions("old"), cache.n_evictions("new")) == (1, 0)
        cache.delete("old")
        assert cache.n_evictions("old") == 0


def test_a_record_that_only_memory_has_is_not_evicted(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for name in "cd":
            fill(cache, name)
        settle(cache)
        block = next(tmp_path.glob("*/.lock")).with_name(".c.json.partial")
        block.mkdir()
        cache.save_record("c", {"name": "c", "seed": 1})
        settle(cache)
        cache._storing._evict(cache._storing._work, "c")
        assert cache.record("c") == {"name": "c", "seed": 1}
        block.rmdir()
    with open_cache(tmp_path) as cache:
        assert cache.record("c") == {"name": "c", "seed": 1}


def test_nobody_waits_while_the_folders_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storing, _ = opened(tmp_path, CacheLimits(disk_seconds=0.05))
    held: list[bool] = []

    def look(bounds: DiskBounds) -> None:
        held.append(storing.changed._is_owned())  # type: ignore[attr-defined]
        bounds._others, bounds._other_bytes = {}, 0
        bounds._next_look = 0.0

    monkeypatch.setattr(DiskBounds, "_look", look)
    for _ in range(200):
        if held:
            break
        time.sleep(0.02)
    assert held and not any(held)
    storing.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_dies_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    def bug() -> None:
        raise ZeroDivisionError("oh")

    with open_cache(tmp_path) as cache:
        fill(cache, "old")
        settle(cache)
        with cache._changed:
            cache._storing.submit(Job("old", bug, "all", 2))
            cache._writer.wait_for(lambda job: True)
        status = cache.status()
        assert (
            status["memory_only"]
            and "ended by a bug (ZeroDivisionError: oh)" in (status["warnings"][0])
        )
        fill(cache, "new")
        assert not cache.wait_for_record("new") and cache.wait_for_record("old")
        assert holds(cache, "new")
        cache.delete("old")
        assert cache.ids() == ["new"]
    with open_cache(tmp_path) as cache:
        assert cache.ids() == ["new"] and holds(cache, "new")


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    storing, said = opened(tmp_path)
    storing.close()
    storing.close()
    with storing.changed:
        storing.submit(Job("c", lambda: None, "logit"))
        storing.submit_record("c")
        storing.delete("c")
    assert not said

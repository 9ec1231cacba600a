"""The cache within its bounds of bytes and age."""

import time
from pathlib import Path

from sdlms.explorer.cache.limits import CacheLimits
from tests.explorer.cached_rows import (
    TOO_LITTLE,
    fill,
    holds,
    open_cache,
    settle,
)


def test_under_a_small_memory_limit_rows_come_from_the_disk(tmp_path: Path) -> None:
    with open_cache(tmp_path, TOO_LITTLE) as cache:
        for i in range(8):
            fill(cache, f"c{i}", seed=i)
        settle(cache)
        assert cache.status()["memory_used_mb"] < 0.1
        assert cache.get("c0", "hidden", range(5)).source == "disk"
        assert all(holds(cache, f"c{i}", seed=i) for i in range(8))


def test_in_memory_only_rows_may_go_and_records_stay() -> None:
    with open_cache(None, TOO_LITTLE) as cache:
        for i in range(8):
            fill(cache, f"c{i}", seed=i)
        assert all(cache.record(f"c{i}") == {"name": f"c{i}", "seed": i} for i in range(8))
        assert len(cache.ids()) == 8
        assert not cache.get("c0", "hidden", range(5)).present.any()
        assert cache.delete("c0") and len(cache.ids()) == 7
        assert cache.set_persisted("c1", True) and cache.persisted("c1")
        assert cache.sizes()["c1"] > 0
        assert cache.status()["memory_only"] and not cache.status()["warnings"]


def test_under_a_small_disk_limit_the_oldest_go_and_persisted_ones_stay(tmp_path: Path) -> None:
    with open_cache(tmp_path / "measured") as cache:
        fill(cache, "c00")
        settle(cache)
        limit = 4 * cache.sizes()["c00"] + 1_000
    with open_cache(tmp_path / "limited", CacheLimits(disk_bytes=limit)) as cache:
        for i in range(12):
            fill(cache, f"c{i:02}", seed=i)
            if i == 1:
                cache.set_persisted("c01", True)
            settle(cache)
            time.sleep(0.002)
        names = cache.ids()
        assert 3 <= len(names) <= 4
        assert names == ["c01", *(f"c{i:02}" for i in range(13 - len(names), 12))]
        assert all(holds(cache, name, seed=int(name[1:])) for name in names)
        assert cache.record("c00") is None
        assert cache.status()["disk_used_mb"] <= limit / 10**6
        assert cache.status()["disk_conversations"] == len(names)


def test_reading_a_record_is_no_use_and_touching_is_one(tmp_path: Path) -> None:
    with open_cache(tmp_path / "measured") as cache:
        fill(cache, "c0")
        settle(cache)
        limit = 2 * cache.sizes()["c0"] + 1_000
    for used, left in (("record", ["c1", "c2"]), ("touch", ["c0", "c2"])):
        with open_cache(tmp_path / used, CacheLimits(disk_bytes=limit)) as cache:
            for name in ("c0", "c1"):
                fill(cache, name)
                settle(cache)
                time.sleep(0.002)
            getattr(cache, used)("c0")
            fill(cache, "c2")
            settle(cache)
            assert cache.ids() == left


def test_the_one_that_is_written_stays_however_small_the_limit(tmp_path: Path) -> None:
    with open_cache(tmp_path, CacheLimits(disk_bytes=1)) as cache:
        for i in range(3):
            fill(cache, f"c{i}", seed=i)
            settle(cache)
            assert holds(cache, f"c{i}", seed=i)
        assert cache.ids() == ["c2"]
        assert "more than its limit" in cache.status()["warnings"][0]


def test_age_empties_both_levels_but_not_what_is_persisted(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for name in ("c", "d"):
            fill(cache, name)
        cache.set_persisted("d", True)
    with open_cache(tmp_path, CacheLimits(disk_seconds=0.2, memory_seconds=0.1)) as cache:
        deadline = time.monotonic() + 10
        while cache.ids() != ["d"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert cache.ids() == ["d"]
    assert not list(tmp_path.glob("*/c.*"))

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.reading import Found, joined
from sdlms.storage.token_rows import CheckedRows
from tests.explorer.cached_rows import fill, holds, open_cache, settle


def rows(*values: int) -> dict[str, np.ndarray]:
    return {"rank": np.array(values, np.int32)}


def test_rows_of_the_disk_fill_the_gaps_of_memory() -> None:
    found = Found(rows(5, 0, 7, 0), np.array([True, False, True, False]), "memory", False)
    both = joined(found, CheckedRows(rows(6, 0), np.array([True, False]), True))
    assert list(both.arrays["rank"]) == [5, 6, 7, 0]
    assert list(both.present) == [True, True, True, False]
    assert (both.source, both.flaw) == ("disk", True)


def test_where_the_disk_has_none_it_is_no_source() -> None:
    found = Found(rows(5, 0), np.array([True, False]), "memory", False)
    both = joined(found, CheckedRows({}, np.array([False]), False))
    assert (both.source, both.flaw) == ("memory", False) and list(both.present) == [True, False]


@pytest.mark.parametrize("changes", [True, False])
def test_what_was_read_before_a_change_is_not_taken_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: bool
) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    with open_cache(tmp_path) as cache:
        read_rows, read_record = DiskLevel.read_rows, DiskLevel.read_record

        def then_changed(read):  # noqa: ANN001, ANN202
            def reading(disk: DiskLevel, *asked: object) -> object:
                found = read(disk, *asked)
                if changes:
                    cache.truncate("c", 2)
                return found

            return reading

        monkeypatch.setattr(DiskLevel, "read_rows", then_changed(read_rows))
        monkeypatch.setattr(DiskLevel, "read_record", then_changed(read_record))
        cache.get("c", "logit", range(5))
        cache.record("c")
        assert cache._memory.marks("c", "logit", 5).all() == (not changes)
        assert (cache._memory.record("c") is None) == changes


def test_a_disk_that_is_not_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*asked: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    with open_cache(tmp_path) as cache:
        with monkeypatch.context() as patched:
            for name in ("read_rows", "read_record", "marks"):
                patched.setattr(DiskLevel, name, fail)
            found = cache.get("c", "logit", range(5))
            assert found.flaw and not found.present.any()
            assert cache.record("c") is None and not cache.present("c", "logit", 5).any()
            said = cache.status()["warnings"]
            assert len(said) == 2 and all("cannot read the r" in text for text in said)
        settle(cache)
        assert holds(cache, "c")


@pytest.mark.parametrize("name", ["read_rows", "marks"])
def test_old_rows_that_leave_the_disk_while_they_are_read_are_not_taken_for_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    with open_cache(tmp_path) as cache:
        read, old = getattr(DiskLevel, name), cache._storing.arrears.old
        old["c"] = 2

        def then_forgotten(disk: DiskLevel, *asked: object) -> object:
            found = read(disk, *asked)
            old.pop("c")
            return found

        monkeypatch.setattr(DiskLevel, name, then_forgotten)
        rows_there = [True, True, False, False, False]
        if name == "marks":
            assert cache.present("c", "logit", 5).tolist() == rows_there
        else:
            assert cache.get("c", "logit", range(5)).present.tolist() == rows_there

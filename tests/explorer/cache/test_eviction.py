import errno
import os
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from sdlms.explorer.cache import eviction
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.eviction import DiskBounds
from tests.explorer.cached_rows import SMALL

WEEK = 7 * 86400.0
SIZE = 8192


def filled(cache: Path, model: str, ages: dict[str, float]) -> DiskLevel:
    """The folder of a model with conversations last used so many seconds ago."""
    disk = DiskLevel(cache, {"model": model}, SMALL, lambda text: None)
    for name, age in ages.items():
        disk.write_record(name, b"x" * (SIZE - 300))
        used = time.time() - age
        os.utime(disk.folder / f"{name}.json", (used, used))
        disk.contents.stored()[name].used = used
    return disk


def evicted(limits: DiskBounds, disk: DiskLevel, exempt: Collection[str] = ()) -> list[str]:
    """What is removed, in this order; what is exempt stays."""
    removed: list[str] = []

    def remove(conversation: str) -> None:
        if conversation not in exempt:
            disk.delete(conversation)
            removed.append(conversation)

    limits.evict(remove)
    return removed


def bounds(disk: DiskLevel, n_conversations: float, seconds: float = WEEK) -> DiskBounds:
    return DiskBounds(disk, int(n_conversations * SIZE), seconds, lambda text: None)


def test_nothing_goes_while_all_fits(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"x": 9, "y": 5})
    limits = bounds(disk, 2)
    assert limits.used_bytes == 2 * SIZE
    assert not limits.is_due and evicted(limits, disk) == []
    disk.close()


def test_the_least_recently_used_go_until_all_fits(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"x": 1, "y": 5, "z": 3, "v": 9})
    limits = bounds(disk, 2)
    assert limits.is_due
    assert evicted(limits, disk) == ["v", "y"]
    assert sorted(disk.contents.ids()) == ["x", "z"] and limits.used_bytes == 2 * SIZE
    assert not list(disk.folder.glob("[vy].*")) and not limits.is_due
    disk.close()


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"old": WEEK + 60, "young": WEEK - 60})
    assert evicted(bounds(disk, 9), disk) == ["old"]
    assert disk.contents.ids() == ["young"]
    disk.close()


def test_persisted_and_exempt_ones_stay_whatever_the_limit(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"persisted": 10 * WEEK, "written": 10 * WEEK, "other": 0})
    disk.set_persisted("persisted", True)
    said: list[str] = []
    limits = DiskBounds(disk, SIZE, WEEK, said.append)
    assert evicted(limits, disk, {"written"}) == ["other"]
    assert sorted(disk.contents.ids()) == ["persisted", "written"]
    assert len(said) == 1 and "more than its limit" in said[0]
    assert not limits.is_due  # nothing can be done before there is more
    disk.write_record("written", b"x" * 9 * SIZE)
    assert limits.is_due
    disk.close()


def test_conversations_of_other_models_count_and_go_too(tmp_path: Path) -> None:
    other = filled(tmp_path, "b", {"x": 9, "kept": 8})
    other.set_persisted("kept", True)
    other.close()
    disk = filled(tmp_path, "a", {"y": 5})
    limits = bounds(disk, 2)
    assert limits.used_bytes == 3 * SIZE
    assert evicted(limits, disk) == []
    assert disk.contents.ids() == ["y"] and limits.used_bytes == 2 * SIZE
    assert sorted(path.stem for path in other.folder.glob("*.json")) == [".key", "kept"]
    disk.close()


def test_those_of_a_model_in_use_stay(tmp_path: Path) -> None:
    other = filled(tmp_path, "b", {"x": 9})
    disk = filled(tmp_path, "a", {"y": 5})
    limits = bounds(disk, 1)
    assert evicted(limits, disk) == ["y"]
    assert other.contents.ids() == ["x"] and other.read_record("x") is not None
    disk.close()
    other.close()


def test_age_is_looked_at_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = filled(tmp_path, "a", {"x": 0})
    monkeypatch.setattr(eviction, "LOOK_AGAIN_SECONDS", 0.01)
    limits = bounds(disk, 9)
    time.sleep(0.02)
    assert limits.is_due
    disk.contents.stored()["x"].used -= 2 * WEEK
    assert evicted(limits, disk) == ["x"]
    disk.close()


def test_one_that_cannot_be_removed_is_told_and_the_others_go(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"x": 9, "y": 5})
    said: list[str] = []

    def remove(conversation: str) -> None:
        if conversation == "x":
            raise OSError(errno.EIO, "it is stuck")
        disk.delete(conversation)

    DiskBounds(disk, SIZE, WEEK, said.append).evict(remove)
    assert disk.contents.ids() == ["x"] and "cannot remove x" in said[0] and "stuck" in said[0]
    disk.close()

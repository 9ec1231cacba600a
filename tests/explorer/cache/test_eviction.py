import os
import time
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
        disk.stored()[name].used = used
    return disk


def bounds(disk: DiskLevel, n_conversations: float, seconds: float = WEEK) -> DiskBounds:
    return DiskBounds(disk, int(n_conversations * SIZE), seconds, lambda text: None)


def test_nothing_goes_while_all_fits(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"x": 9, "y": 5})
    limits = bounds(disk, 2)
    assert limits.used_bytes == 2 * SIZE
    assert not limits.is_due and limits.evict(()) == []
    disk.close()


def test_the_least_recently_used_go_until_all_fits(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"x": 1, "y": 5, "z": 3, "v": 9})
    limits = bounds(disk, 2)
    assert limits.is_due
    assert limits.evict(()) == ["v", "y"]
    assert sorted(disk.ids()) == ["x", "z"] and limits.used_bytes == 2 * SIZE
    assert not list(disk.folder.glob("[vy].*")) and not limits.is_due
    disk.close()


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"old": WEEK + 60, "young": WEEK - 60})
    assert bounds(disk, 9).evict(()) == ["old"]
    assert disk.ids() == ["young"]
    disk.close()


def test_persisted_and_exempt_ones_stay_whatever_the_limit(tmp_path: Path) -> None:
    disk = filled(tmp_path, "a", {"persisted": 10 * WEEK, "written": 10 * WEEK, "other": 0})
    disk.set_persisted("persisted", True)
    said: list[str] = []
    limits = DiskBounds(disk, SIZE, WEEK, said.append)
    assert limits.evict({"written"}) == ["other"]
    assert sorted(disk.ids()) == ["persisted", "written"]
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
    assert limits.evict(()) == []
    assert disk.ids() == ["y"] and limits.used_bytes == 2 * SIZE
    assert sorted(path.stem for path in other.folder.glob("*.json")) == [".key", "kept"]
    disk.close()


def test_those_of_a_model_in_use_stay(tmp_path: Path) -> None:
    other = filled(tmp_path, "b", {"x": 9})
    disk = filled(tmp_path, "a", {"y": 5})
    limits = bounds(disk, 1)
    assert limits.evict(()) == ["y"]
    assert other.ids() == ["x"] and other.read_record("x") is not None
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
    disk.stored()["x"].used -= 2 * WEEK
    assert limits.evict(()) == ["x"]
    disk.close()

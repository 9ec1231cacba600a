import os
from pathlib import Path

from sdlms.explorer.cache.contents import Contents


def filled(folder: Path) -> Contents:
    for name in ("a.json", "a.h5", "b.json", "c.h5"):
        (folder / name).write_bytes(b"x" * 5_000)
    return Contents(folder)


def test_a_folder_is_known_by_its_files(tmp_path: Path) -> None:
    contents = filled(tmp_path)
    assert sorted(contents.ids()) == ["a", "b"] and contents.has_record("a")
    assert not contents.has_record("c") and not contents.has_record("unknown")
    assert contents.size_bytes("a") == 2 * contents.size_bytes("b") > 0
    assert contents.used_bytes == 4 * contents.size_bytes("b")


def test_what_is_noted_is_known(tmp_path: Path) -> None:
    contents = filled(tmp_path)
    contents.note_record("c", True)
    contents.note_mark("c", True)
    assert contents.has_record("c") and contents.is_persisted("c")
    assert contents.persisted() == {"c"} and not contents.is_persisted("a")
    before = contents.used_bytes
    contents.note_damage("a", 1_000)
    assert contents.was_damaged("a") and contents.used_bytes == before + 1_000
    contents.remove("a")
    contents.remove("unknown")
    assert not contents.was_damaged("a") and sorted(contents.ids()) == ["b", "c"]
    assert contents.used_bytes == sum(contents.size_bytes(name) for name in "bc")


def test_uses_are_written_at_times(tmp_path: Path) -> None:
    contents = filled(tmp_path)
    for name in ("a", "b"):
        os.utime(tmp_path / f"{name}.json", (1_000, 1_000))
    contents.touch("a")
    contents.touch("unknown")
    contents.write_uses(pause=1e12)
    assert (tmp_path / "a.json").stat().st_mtime == 1_000
    contents.write_uses(pause=0.0)
    assert (tmp_path / "a.json").stat().st_mtime == contents.stored()["a"].used > 1e9
    assert (tmp_path / "b.json").stat().st_mtime == 1_000
    os.utime(tmp_path / "a.json", (1_000, 1_000))
    contents.write_uses(pause=0.0)  # nothing was used since
    assert (tmp_path / "a.json").stat().st_mtime == 1_000

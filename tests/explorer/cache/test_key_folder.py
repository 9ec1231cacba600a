import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.explorer.cache.key_folder import (
    KEY,
    borrowed,
    check_writing,
    key_folder,
    open_key_folder,
    other_folders,
    remove_files,
    scan,
)
from tests.explorer.cached_rows import obstruct

KEY_ONE = {"model": "m", "dtype": "float32"}


@pytest.mark.parametrize(
    "other", [{"model": "n"}, {"dtype": "float16"}, {"tokenizer": "t"}, {"model": None}]
)
def test_another_key_is_another_folder(other: dict[str, str | None]) -> None:
    cache = Path("cache")
    assert key_folder(cache, KEY_ONE) != key_folder(cache, {**KEY_ONE, **other})


def test_the_order_of_a_key_does_not_matter() -> None:
    turned = dict(reversed(KEY_ONE.items()))
    assert key_folder(Path("cache"), KEY_ONE) == key_folder(Path("cache"), turned)


def test_the_key_is_written_down_and_only_the_user_may_look(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    descriptor = open_key_folder(folder, KEY_ONE)
    assert json.loads((folder / KEY).read_text()).items() >= KEY_ONE.items()
    assert folder.stat().st_mode & 0o77 == 0
    os.close(descriptor)


def test_one_user_at_a_time(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    descriptor = open_key_folder(folder, KEY_ONE)
    with pytest.raises(UserError, match="in use by another explorer"):
        open_key_folder(folder, KEY_ONE)
    with borrowed(folder) as is_ours:
        assert not is_ours
    os.close(descriptor)
    with borrowed(folder) as is_ours:
        assert is_ours
        with pytest.raises(UserError, match="in use"):
            open_key_folder(folder, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))


def test_a_killed_user_leaves_no_lock(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sdlms.explorer.cache.key_folder import open_key_folder\n"
        f"open_key_folder(Path(sys.argv[1]), {KEY_ONE!r})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], check=False).returncode == -9
    os.close(open_key_folder(folder, KEY_ONE))


def test_a_folder_with_another_key_is_refused(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    with pytest.raises(UserError, match="another model"):
        open_key_folder(folder, {"model": "other"})


def test_a_damaged_key_is_written_again(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    whole = (folder / KEY).read_bytes()
    (folder / KEY).write_bytes(whole[:9])
    os.close(open_key_folder(folder, KEY_ONE))
    assert (folder / KEY).read_bytes() == whole


def test_half_made_files_and_rows_without_a_record_go_and_others_stay(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    stay = ["a.json", "a.h5", "a.persisted", "b.json.damaged-1", "b.h5.damaged-1", "notes.txt"]
    stay += [".hidden", "..c.tar.partial"]
    go = [".a.json.partial", ".a.h5.growing", "..a.h5.growing.new", "...a.h5.growing.new.partial"]
    go += [".a.h5.new", "c.h5", "d.persisted"]
    for name in stay + go:
        (folder / name).write_text(name)
    os.close(open_key_folder(folder, KEY_ONE))
    assert {path.name for path in folder.iterdir()} == {*stay, ".key.json", ".lock"}


def test_a_scan_counts_what_belongs_to_conversations(tmp_path: Path) -> None:
    sizes = {"a.json": 5_000, "a.h5": 10_000, "a.persisted": 0, "b.json.damaged-1": 100}
    for name in [*sizes, "notes.txt", "b.json.old", ".lock", "ä.json", "c.json.partial"]:
        (tmp_path / name).write_bytes(b"x" * sizes.get(name, 1))
    os.utime(tmp_path / "a.json", (50, 50))
    for name in ("a.h5", "a.persisted"):
        os.utime(tmp_path / name, (40, 40))
    found = scan(tmp_path)
    blocks = {name: (tmp_path / name).stat().st_blocks * 512 for name in sizes}
    assert set(found) == {"a", "b"}
    assert (found["a"].has_record, found["a"].persisted, found["a"].used) == (True, True, 50)
    assert found["a"].n_bytes == blocks["a.json"] + blocks["a.h5"]
    assert (found["b"].has_record, found["b"].persisted) == (False, False)
    assert found["b"].n_bytes == found["b"].damaged_bytes == blocks["b.json.damaged-1"]


def test_only_the_files_of_one_conversation_are_removed(tmp_path: Path) -> None:
    own = ["a.json", "a.h5", "a.persisted", "a.json.damaged-1", "a.h5.damaged-12"]
    others = ["ab.json", "b.a.h5.damaged-1", "a", "a.txt"]
    for name in own + others:
        (tmp_path / name).touch()
    remove_files(tmp_path, "a")
    remove_files(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_only_folders_of_keys_are_others(tmp_path: Path) -> None:
    one, two = (key_folder(tmp_path, {"model": name}) for name in "ab")
    for folder, name in ((one, "a"), (two, "b")):
        os.close(open_key_folder(folder, {"model": name}))
    (tmp_path / "0123456789abcdef").mkdir()  # without a key
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / KEY).touch()
    assert list(other_folders(one)) == [two]
    assert list(other_folders(tmp_path / "missing" / "x")) == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_passed_over(tmp_path: Path, kind: str) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    for name in ("a.json", "b.h5", ".c.json.partial", "d.persisted", "e.json.damaged-1"):
        obstruct(folder / name, kind)
    (folder / "x.json").touch()
    os.close(open_key_folder(folder, KEY_ONE))
    assert set(scan(folder)) == {"x"}
    assert kind != "folder" or (folder / "b.h5" / "precious").exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_stands_in_the_place_of_the_key_is_put_aside(tmp_path: Path, kind: str) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    folder.mkdir()
    obstruct(folder / KEY, kind)
    os.close(open_key_folder(folder, KEY_ONE))
    assert json.loads((folder / KEY).read_text()).items() >= KEY_ONE.items()
    assert os.path.lexists(folder / f"{KEY}.damaged-1")


def test_the_same_key_is_not_written_again(tmp_path: Path) -> None:
    """A full disk could not take it."""
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    before = (folder / KEY).stat()
    os.close(open_key_folder(folder, KEY_ONE))
    after = (folder / KEY).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_leftovers_that_cannot_be_removed_are_no_reason_to_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    for name in ("a.h5", ".b.json.partial"):
        (folder / name).touch()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "unlink", refused)
    os.close(open_key_folder(folder, KEY_ONE))
    assert (folder / "a.h5").exists()


def test_a_folder_instead_of_the_lock_is_named(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    (folder / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\.lock: Is a directory"):
        open_key_folder(folder, KEY_ONE)


def test_a_folder_with_the_name_of_a_file_is_not_removed(tmp_path: Path) -> None:
    for name in ("a.h5", "a.json.damaged-1"):
        obstruct(tmp_path / name, "folder")
    obstruct(tmp_path / "a.persisted", "link")
    (tmp_path / "a.json").touch()
    remove_files(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == {"a.h5", "a.json.damaged-1"}


def test_a_folder_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writing(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="No such file"):
        check_writing(tmp_path / "gone")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            check_writing(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_trial_leaves_goes_at_the_start(tmp_path: Path) -> None:
    folder = key_folder(tmp_path, KEY_ONE)
    os.close(open_key_folder(folder, KEY_ONE))
    (folder / ".trial.json.partial").touch()
    os.close(open_key_folder(folder, KEY_ONE))
    assert {path.name for path in folder.iterdir()} == {".key.json", ".lock"}

"""Names are given once, the lock has one holder, modes come and go, listings miss nothing."""

import os
import threading
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.folder import (
    acquire,
    bytes_on_disk,
    check_room,
    check_writable,
    contents,
    hidden_name,
    is_locked,
    is_partial,
    make_read_only,
    make_writable,
    publish,
    remove_empty_folders,
    reserve,
    run_name,
)
from sdlms.runs.meta import META
from sdlms.storage.files import sync


def partial(artifacts: Path, name: str = "r") -> Path:
    folder = artifacts / hidden_name(name)
    folder.mkdir()
    (folder / META).write_text("{}\n")
    return folder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["20261120_143022_capture", "x.partial", ".x", "x"])
def test_a_hidden_name_leads_back_to_the_name(name: str) -> None:
    assert is_partial(Path(hidden_name(name)))
    assert run_name(Path(hidden_name(name))) == name
    assert run_name(Path(name)) == name


def test_only_hidden_names_are_partial() -> None:
    assert not is_partial(Path("x.partial"))
    assert not is_partial(Path(".x"))


def test_reserved_names_differ_from_all_runs_finished_or_not(tmp_path: Path) -> None:
    (tmp_path / "stem").mkdir()
    (tmp_path / "stem_3").mkdir()
    names = [run_name(reserve(tmp_path, "stem")) for _ in range(3)]
    assert names == ["stem_2", "stem_4", "stem_5"]


def test_many_threads_reserve_one_name_each(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(16), []

    def one() -> None:
        barrier.wait()
        found.append(reserve(tmp_path, "stem").name)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 16


def test_the_lock_has_one_holder_until_it_is_closed(tmp_path: Path) -> None:
    folder = partial(tmp_path)
    assert not is_locked(folder)
    held = acquire(folder)
    assert held is not None
    assert is_locked(folder)
    assert acquire(folder) is None
    os.close(held)
    assert not is_locked(folder)
    again = acquire(folder)
    assert again is not None
    os.close(again)


def test_the_lock_outlives_publishing(tmp_path: Path) -> None:
    folder = partial(tmp_path)
    held = acquire(folder)
    assert held is not None
    final = publish(folder)
    assert is_locked(final)
    assert acquire(folder) is None  # there no more
    os.close(held)


def test_a_lock_on_a_replaced_file_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = partial(tmp_path)
    real_open = os.open

    def published_meanwhile(path: Path, flags: int) -> int:
        descriptor = real_open(path, flags)
        folder.rename(tmp_path / "r")
        return descriptor

    monkeypatch.setattr(os, "open", published_meanwhile)
    assert acquire(folder) is None


def test_a_folder_without_meta_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert acquire(tmp_path) is None


def test_asking_does_not_look_like_writing(tmp_path: Path) -> None:
    folder = partial(tmp_path)
    wrong: list[bool] = []

    def ask() -> None:
        wrong.extend(is_locked(folder) for _ in range(200))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(wrong)


def test_contents_name_files_links_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a/b/.file").write_text("x")
    (tmp_path / "to_folder").symlink_to(tmp_path / "a")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    files, folders = contents(tmp_path)
    assert files == {"a/b/.file", "to_folder", "dangling"}
    assert folders == {"a", "a/b", "empty"}


def test_scratch_belongs_to_no_unfinished_run_and_is_an_addition_to_a_finished_one(
    tmp_path: Path,
) -> None:
    folder = partial(tmp_path)
    (folder / ".scratch").mkdir()
    (folder / ".scratch/x").write_text("x")
    assert contents(folder) == ({META}, set())
    folder.rename(tmp_path / "r")
    assert contents(tmp_path / "r") == ({META, ".scratch/x"}, {".scratch"})


def test_publishing_drops_scratch_and_leaves_nothing_writable(tmp_path: Path) -> None:
    folder = partial(tmp_path)
    (folder / ".scratch/below").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "logs/run.log").write_text("x")
    final = publish(folder)
    assert final == tmp_path / "r"
    assert not folder.exists()
    assert contents(final) == ({META, "logs/run.log"}, {"logs"})
    assert {mode(final), mode(final / "logs")} == {0o555}
    assert {mode(final / META), mode(final / "logs/run.log")} == {0o444}


def test_what_was_made_read_only_can_be_made_writable_even_in_part(tmp_path: Path) -> None:
    folder = partial(tmp_path)
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o444)
    (folder / "link").symlink_to(outside)
    make_read_only(folder / "a")
    make_writable(folder)
    assert mode(folder / "a/b/file") & 0o200
    assert mode(folder / "a/b") & 0o300 == 0o300
    assert mode(outside) == 0o444


def test_empty_folders_go_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_text("x")
    remove_empty_folders(tmp_path)
    assert contents(tmp_path) == ({"d/file"}, {"d"})
    remove_empty_folders(tmp_path / "d")
    assert (tmp_path / "d").is_dir()


def test_holes_take_no_room(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100_000_000)
    assert bytes_on_disk(tmp_path) < 1_000_000
    (tmp_path / "full").write_bytes(b"x" * 300_000)
    sync(tmp_path / "full")
    assert 300_000 <= bytes_on_disk(tmp_path) < 1_000_000
    assert bytes_on_disk(tmp_path / "absent") == 0


def test_too_little_room_names_both_sizes(tmp_path: Path) -> None:
    check_room(tmp_path / "absent/artifacts", 1, "")
    with pytest.raises(UserError, match=r"needs 9000\.0 TB .*where .* are free\. Do less\."):
        check_room(tmp_path / "absent/artifacts", 9 * 10**15, "Do less.")


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        with pytest.raises(UserError, match=r"cannot write under .*is not a folder.*--artifacts"):
            check_writable(tmp_path / place)
    check_writable(tmp_path / "absent/below")
    assert not (tmp_path / "absent").exists()


def test_a_read_only_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"cannot write under .*may not be written.*--artifacts"):
        check_writable(tmp_path)

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from sdlms.errors import UserError
from sdlms.explorer.cache import disk as disks
from sdlms.explorer.cache.columns import Columns, packed
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.storage.conversations import DamagedFileError
from tests.explorer.cached_rows import GROUPS, KEY, SMALL, Rows, are_equal, obstruct, random_rows

STATES = range(SMALL.n_states)


def opened(folder: Path, warnings: list[str] | None = None, columns: Columns = SMALL) -> DiskLevel:
    said = [] if warnings is None else warnings
    return DiskLevel(folder, KEY, columns, said.append)


def rows_of(group: str, n_tokens: int, seed: int, columns: Columns = SMALL) -> Rows:
    return packed(columns, group, random_rows(group, n_tokens, seed, columns))


def test_records_and_rows_are_there_after_opening_again(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write_record("c", b'{"a":1}')
    for group in GROUPS:
        disk.write_rows("c", group, 3, rows_of(group, 5, seed=1))
    disk.set_persisted("c", True)
    disk.close()
    disk = opened(tmp_path)
    assert (disk.contents.ids(), disk.contents.persisted()) == (["c"], {"c"})
    assert disk.read_record("c") == b'{"a":1}'
    for group in GROUPS:
        stored = disk.read_rows("c", group, range(3, 8), STATES)
        assert stored is not None and stored.present.all()
        assert are_equal(stored.arrays, rows_of(group, 5, seed=1))
        assert list(disk.marks("c", group, 10)) == [3 <= p < 8 for p in range(10)]
    assert disk.contents.used_bytes == disk.contents.size_bytes("c") > 0
    disk.set_persisted("c", False)
    disk.delete("c")
    assert (
        not disk.contents.ids() and not disk.contents.used_bytes and disk.read_record("c") is None
    )
    assert disk.read_rows("c", "logit", [3], STATES) is None
    disk.close()
    assert {path.name for path in disk.folder.iterdir()} == {".key.json", ".lock"}


def test_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    for i in range(5):
        disk.write_record(f"c{i % 2}", b"x" * 5_000 * i)
        disk.write_rows(f"c{i % 2}", "logit", 400 * i, rows_of("logit", 300, seed=i))
        for name in ("c0", "c1"):
            files = list(disk.folder.glob(f"{name}.*"))
            assert disk.contents.size_bytes(name) == sum(
                path.stat().st_blocks * 512 for path in files
            )
        assert disk.contents.used_bytes == disk.contents.size_bytes(
            "c0"
        ) + disk.contents.size_bytes("c1")
    disk.close()


def test_an_unchecked_record_is_put_aside_with_its_rows(tmp_path: Path) -> None:
    warnings: list[str] = []
    disk = opened(tmp_path, warnings)
    disk.write_record("c", b"{}")
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    path = disk.folder / "c.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert disk.read_record("c") is None
    names = {path.name for path in disk.folder.iterdir() if not path.name.startswith(".")}
    assert names == {"c.json.damaged-1", "c.h5.damaged-1"}
    assert not disk.contents.ids() and disk.contents.size_bytes("c") > 0
    assert len(warnings) == 2 and "c.json.damaged-1" in warnings[0]
    disk.write_record("c", b"{}")  # a new one of the same name is another conversation
    assert disk.read_record("c") == b"{}"
    assert disk.read_rows("c", "logit", [0], STATES) is None
    disk.delete("c")
    assert not disk.contents.used_bytes
    disk.close()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_of_rows_that_does_not_open_is_put_aside(
    tmp_path: Path, content: bytes | None
) -> None:
    warnings: list[str] = []
    disk = opened(tmp_path)
    disk.write_record("c", b"{}")
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    disk.close()
    path = disk.folder / "c.h5"
    path.write_bytes(path.read_bytes()[:-99] if content is None else content)
    disk = opened(tmp_path, warnings)
    assert disk.read_rows("c", "logit", [0], STATES) is None
    assert disk.contents.was_damaged("c") and len(warnings) == 1
    assert (disk.folder / "c.h5.damaged-1").exists()
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    stored = disk.read_rows("c", "logit", range(3), STATES)
    assert stored is not None and stored.present.all()
    assert disk.read_record("c") == b"{}"
    disk.close()


def test_rows_of_another_conversation_are_not_taken(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    for i, name in enumerate("cd"):
        disk.write_record(name, b"{}")
        disk.write_rows(name, "logit", 0, rows_of("logit", 3, seed=i))
    disk.close()
    (disk.folder / "c.h5").replace(disk.folder / "d.h5")
    disk = opened(tmp_path)
    assert disk.read_rows("d", "logit", [0], STATES) is None
    assert disk.contents.was_damaged("d")
    disk.close()


def test_other_settings_keep_the_groups_that_are_alike(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.write_record("c", b"{}")
    for group in GROUPS:
        disk.write_rows("c", group, 0, rows_of(group, 3, seed=1))
    disk.close()
    more = Columns(SMALL.n_states, SMALL.d_model, SMALL.n_top + 1, "fp16")
    disk = opened(tmp_path, columns=more)
    assert disk.read_rows("c", "logit", range(3), STATES) is None
    for _ in range(2):
        stored = disk.read_rows("c", "hidden", range(3), STATES)
        assert stored is not None and are_equal(stored.arrays, rows_of("hidden", 3, seed=1))
        disk.write_rows("c", "logit", 0, rows_of("logit", 3, 2, more))  # moves to a new file
    stored = disk.read_rows("c", "logit", range(3), STATES)
    assert stored is not None and are_equal(stored.arrays, rows_of("logit", 3, 2, more))
    assert not list(disk.folder.glob("*damaged*"))
    disk.close()


def test_without_hidden_states_the_file_has_no_place_for_them(tmp_path: Path) -> None:
    columns = Columns(SMALL.n_states, SMALL.d_model, SMALL.n_top, "none")
    disk = opened(tmp_path, columns=columns)
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, 1, columns))
    assert disk.read_rows("c", "hidden", range(3), STATES) is None
    assert not disk.marks("c", "hidden", 3).any()
    disk.close()


def test_truncated_rows_are_gone(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    disk.truncate("c", 0, GROUPS)
    for group in GROUPS:
        disk.write_rows("c", group, 0, rows_of(group, 5, seed=1))
    disk.truncate("c", 2, ["logit", "tuned"])
    kept = [int(disk.marks("c", group, 5).sum()) for group in GROUPS]
    assert kept == [5, 2, 2]
    disk.close()


def test_the_time_of_the_last_use_is_kept(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    for name in "ab":
        disk.write_record(name, b"{}")
    disk.close()
    for name in "ab":
        os.utime(disk.folder / f"{name}.json", (1_000, 1_000))
    disk = opened(tmp_path)
    disk.contents.touch("a")
    disk.contents.touch("unknown")
    disk.close()
    disk = opened(tmp_path)
    assert disk.contents.stored()["a"].used > 1e9 and disk.contents.stored()["b"].used == 1_000
    disk.close()


def test_a_second_user_is_refused(tmp_path: Path) -> None:
    disk = opened(tmp_path)
    with pytest.raises(UserError, match="in use"):
        opened(tmp_path)
    disk.close()
    opened(tmp_path).close()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((UserError, OSError)):
        opened(tmp_path / "file")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = psutil.Process().num_fds()
    for _ in range(3):
        disk = opened(tmp_path)
        disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
        assert np.all(disk.marks("c", "logit", 3))
        disk.close()
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_stands_in_the_place_of_rows_is_put_aside(tmp_path: Path, kind: str) -> None:
    warnings: list[str] = []
    disk = opened(tmp_path, warnings)
    disk.write_record("c", b"{}")
    obstruct(disk.folder / "c.h5", kind)
    assert disk.read_rows("c", "logit", [0], STATES) is None and disk.contents.was_damaged("c")
    assert len(warnings) == 1 and "no regular file" in warnings[0]
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    stored = disk.read_rows("c", "logit", range(3), STATES)
    assert stored is not None and stored.present.all()
    files = [disk.folder / "c.json", disk.folder / "c.h5"]
    assert disk.contents.size_bytes("c") == sum(path.stat().st_blocks * 512 for path in files)
    disk.delete("c")
    assert not disk.contents.ids() and not disk.contents.used_bytes
    disk.close()


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_stands_in_the_place_of_a_record_is_none(tmp_path: Path, kind: str) -> None:
    disk = opened(tmp_path)
    for name in ("c.json", "c.persisted"):
        obstruct(disk.folder / name, kind)
    assert disk.read_record("c") is None and not disk.contents.persisted()
    disk.write_record("c", b"{}")
    disk.set_persisted("c", True)
    disk.set_persisted("c", False)
    assert disk.read_record("c") == b"{}" and disk.contents.ids() == ["c"]
    disk.close()


def test_a_record_of_no_use_is_put_aside_with_its_rows(tmp_path: Path) -> None:
    warnings: list[str] = []
    disk = opened(tmp_path, warnings)
    disk.put_aside("unknown", DamagedFileError("it is empty"))
    disk.write_record("c", b"{}")
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    disk.put_aside("c", DamagedFileError("it is empty"))
    assert disk.contents.ids() == [] and disk.read_record("c") is None
    assert disk.read_rows("c", "logit", [0], STATES) is None
    assert len(warnings) == 2 and "c.json was damaged (it is empty)" in warnings[0]
    disk.close()


def test_while_one_record_is_written_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = opened(tmp_path)
    gates = disk._records
    other = next(str(i) for i in range(9) if gates.of(str(i)) is not gates.of("slow"))
    disk.write_record(other, b"{}")
    begun, gate = threading.Event(), threading.Event()

    def slowly(*asked: object) -> None:
        begun.set()
        assert gate.wait(30)

    monkeypatch.setattr(disks, "write_conversation", slowly)
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(disk.write_record, "slow", b"{}")
        assert begun.wait(30)
        assert disk.read_record(other) == b"{}"
        disk.contents.touch(other)
        gate.set()
        writing.result()
    disk.close()


def test_a_mark_and_an_end_are_on_the_disk_when_they_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = opened(tmp_path)
    disk.write_record("c", b"{}")
    synced: list[bool] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.path.sameopenfile(descriptor, folder))
        fsync(descriptor)

    folder = os.open(disk.folder, os.O_RDONLY)
    monkeypatch.setattr(os, "fsync", noted)
    for change in (
        lambda: disk.set_persisted("c", True),
        lambda: disk.set_persisted("c", False),
        lambda: disk.delete("c"),
    ):
        synced.clear()
        change()
        assert synced[-1:] == [True]
    os.close(folder)
    disk.close()


def test_what_could_not_be_removed_whole_is_known_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = opened(tmp_path)
    disk.write_record("c", b"{}")
    disk.write_rows("c", "logit", 0, rows_of("logit", 3, seed=0))
    unlink = Path.unlink

    def only_records(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".h5":
            raise OSError(errno.EIO, "it is stuck")
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", only_records)
        with pytest.raises(OSError, match="stuck"):
            disk.delete("c")
    assert disk.contents.ids() == [] and disk.contents.size_bytes("c") > 0
    disk.delete("c")
    assert not disk.contents.used_bytes
    disk.close()

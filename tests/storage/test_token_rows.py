import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from sdlms.storage.conversations import DamagedFileError
from sdlms.storage.row_layout import FIRST_ROOM, RowGroup, RowLayout, create_rows, read_places
from sdlms.storage.token_rows import TokenRows
from tests.storage.small_rows import LAYOUT, PARTS, WHOLE, are_equal, random_rows


def opened(path: Path, layout: RowLayout = LAYOUT) -> TokenRows:
    create_rows(path, "c", layout, 0)
    return TokenRows(path, "c")


@pytest.mark.parametrize("group", LAYOUT)
@pytest.mark.parametrize("positions", [[3, 4, 5], [5, 3, 3], [0, 9], [4], [], [2, 10_000, 3]])
def test_rows_come_back_and_others_are_absent(
    tmp_path: Path, group: RowGroup, positions: list[int]
) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(group, 5, seed=0)
    file.write(group.name, 2, rows)
    found = file.read(group.name, positions)
    assert list(found.present) == [2 <= p < 7 for p in positions]
    assert not found.is_damaged
    for name, array in found.arrays.items():
        expected = [
            rows[name][p - 2] if 2 <= p < 7 else np.zeros_like(rows[name][0]) for p in positions
        ]
        assert array.tobytes() == np.array(expected, array.dtype).tobytes()
    file.close()


@pytest.mark.parametrize("parts", [[0], [2], [0, 2], [2, 1], [0, 1, 2], []])
@pytest.mark.parametrize("group", LAYOUT)
def test_some_parts_are_slices_of_all(tmp_path: Path, group: RowGroup, parts: list[int]) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(group, 6, seed=0)
    file.write(group.name, 0, rows)
    found = file.read(group.name, [1, 2, 5], parts)
    assert found.present.all()
    assert are_equal(found.arrays, {n: a[[1, 2, 5]][:, parts] for n, a in rows.items()})
    file.close()


def test_hdf5_sees_the_same_rows(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(PARTS, 4, seed=0)
    file.write("parts", 3, rows)
    file.close()
    with h5py.File(tmp_path / "c.h5") as content:
        assert np.array_equal(content["parts/values"][3:7], rows["values"])


def test_later_rows_replace_earlier_ones(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    for seed in (1, 2):
        file.write("whole", 0, random_rows(WHOLE, 3, seed))
    assert are_equal(file.read("whole", range(3)).arrays, random_rows(WHOLE, 3, 2))
    file.close()


def test_room_grows_and_all_rows_stay(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(WHOLE, 5, seed=0)
    parts = random_rows(PARTS, 3 * FIRST_ROOM, seed=1)
    file.write("whole", 7, rows)
    file.write("parts", 0, parts)  # needs four times the room
    file.close()
    again = TokenRows(tmp_path / "c.h5", "c")
    assert read_places(tmp_path / "c.h5", "c").room == 4 * FIRST_ROOM
    assert are_equal(again.read("whole", range(7, 12)).arrays, rows)
    assert are_equal(again.read("parts", range(3 * FIRST_ROOM)).arrays, parts)
    assert list(again.marks("whole", 14)) == [7 <= p < 12 for p in range(14)]
    assert not list(tmp_path.glob(".*"))
    again.close()


def test_another_layout_keeps_the_groups_that_are_alike(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5", (WHOLE, PARTS._replace(n_parts=1)))
    rows = random_rows(WHOLE, 5, seed=0)
    file.write("whole", 0, rows)
    file.write("parts", 0, random_rows(PARTS, 5, seed=1))
    file.rebuild(LAYOUT, 0)
    assert file.layout == LAYOUT
    assert are_equal(file.read("whole", range(5)).arrays, rows)
    found = file.read("parts", range(5))
    assert not found.present.any() and not found.is_damaged
    file.close()


def test_truncated_rows_are_absent(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    for group in LAYOUT:
        file.write(group.name, 0, random_rows(group, 9, seed=0))
    file.truncate(4, ["whole"])
    file.truncate(10_000, ["parts"])
    assert list(file.read("whole", range(9)).present) == [p < 4 for p in range(9)]
    assert file.read("parts", range(9)).present.all()
    file.close()


def test_to_forget_what_is_not_there_writes_nothing(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    for group in LAYOUT:
        file.write(group.name, 0, random_rows(group, 9, seed=0))
    file.close()
    before = file.path.stat()
    file = TokenRows(file.path, file.owner)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk
    try:
        file.truncate(9, [group.name for group in LAYOUT])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.stat().st_mtime_ns == before.st_mtime_ns
    for group in LAYOUT:
        assert file.read(group.name, range(9)).present.all()
    file.close()


def test_rows_of_another_shape_are_a_bug(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(WHOLE, 2, seed=0)
    with pytest.raises(ValueError, match="entropy"):
        file.write("whole", 0, {**rows, "entropy": rows["entropy"].astype(np.float64)})
    assert not file.read("whole", [0, 1]).present.any()
    file.close()


def flip(path: Path, at: int) -> None:
    """Flip one bit of a file, in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))


def test_no_flipped_byte_gives_a_wrong_row(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    rows = {group.name: random_rows(group, 4, seed=0) for group in LAYOUT}
    file = opened(path)
    for name in rows:
        file.write(name, 0, rows[name])
    file.close()
    size, generator = path.stat().st_size, np.random.default_rng(0)
    places = read_places(path, "c")
    inside = [
        place.offset + int(i)
        for place in places.of.values()
        for i in generator.integers(0, 4 * place.row_bytes, 12)
    ]
    seen = set()
    for at in [*inside, *generator.choice(size, 150)]:
        flip(path, at)
        with contextlib.suppress(DamagedFileError):
            file = TokenRows(path, "c")
            for name in rows:
                found = file.read(name, range(4))
                if found.is_damaged:
                    seen.add(at)
                    assert found.present.sum() == 3  # only the one that was hit
                kept = {n: array[found.present] for n, array in rows[name].items()}
                assert are_equal({n: a[found.present] for n, a in found.arrays.items()}, kept)
            file.close()
        flip(path, at)
    assert seen >= set(inside)


def test_a_part_that_is_damaged_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    file = opened(path)
    file.write("parts", 0, random_rows(PARTS, 4, seed=0))
    place = read_places(path, "c").of["parts", "values"]
    flip(path, place.offset + 2 * place.row_bytes + 12)  # token 2, part 1
    assert file.read("parts", range(4), [0, 2]).present.all()
    found = file.read("parts", range(4), [1])
    assert list(found.present) == [True, True, False, True] and found.is_damaged
    assert not found.arrays["values"][2].any()
    file.close()


def test_a_row_in_the_place_of_another_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    file = opened(path)
    file.write("whole", 0, random_rows(WHOLE, 2, seed=0))
    content = bytearray(path.read_bytes())
    for name in ("ids", "entropy", "checksums"):
        offset, size = read_places(path, "c").of["whole", name]
        content[offset + size : offset + 2 * size] = content[offset : offset + size]
    file.close()
    path.write_bytes(content)
    file = TokenRows(path, "c")
    assert list(file.read("whole", [0, 1]).present) == [True, False]
    file.close()


WRITE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from sdlms.storage.row_layout import create_rows
from sdlms.storage.token_rows import TokenRows
from tests.storage.small_rows import LAYOUT, random_rows
path = Path(sys.argv[1])
create_rows(path, "c", LAYOUT, 0)
file = TokenRows(path, "c")
for i in count():
    for group in LAYOUT:
        file.write(group.name, 5 * (i % 60), random_rows(group, 7, seed=i % 7))
    if i == 90:
        print("well under way", flush=True)
"""


def test_after_a_kill_every_row_that_is_present_is_right(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    file = TokenRows(path, "c")
    for group in LAYOUT:
        written = [random_rows(group, 7, seed) for seed in range(7)]
        found = file.read(group.name, range(302))
        assert found.present.sum() >= 302 - 7  # all but what was being written
        for position in np.flatnonzero(found.present):
            offsets = [k for k in range(7) if (position - k) % 5 == 0 and position - k < 300]
            row = {name: array[position].tobytes() for name, array in found.arrays.items()}
            assert any(
                all(rows[name][k].tobytes() == content for name, content in row.items())
                for rows in written
                for k in offsets
            )
    file.close()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(WHOLE, 9, seed=0)
    file.write("whole", 0, rows)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "c.h5").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"no room|large"):
            file.write("whole", FIRST_ROOM, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert are_equal(file.read("whole", range(9)).arrays, rows)
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]
    file.close()


def test_readers_see_whole_rows_while_one_writes_and_grows(tmp_path: Path) -> None:
    file = opened(tmp_path / "c.h5")
    versions = [random_rows(PARTS, 4, seed) for seed in range(3)]
    file.write("parts", 0, versions[0])
    over, wrong = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            found = file.read("parts", range(4))
            fits = any(are_equal(found.arrays, version) for version in versions)
            if not (fits and found.present.all()) or found.is_damaged:
                wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(120):
        file.write("parts", 0, versions[i % 3])
        file.write("whole", 20 * i, random_rows(WHOLE, 20, seed=i))
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong
    file.close()


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_file_that_cannot_move_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = opened(tmp_path / "c.h5")
    rows = random_rows(WHOLE, 5, seed=0)
    file.write("whole", 0, rows)
    before = psutil.Process().num_fds()
    os_open, replace = os.open, Path.replace

    def refuse_open(path: str | Path, *asked: int) -> int:
        if step == "open" and Path(path).name == ".c.h5.growing":
            raise OSError(errno.EMFILE, "too many files")
        return os_open(path, *asked)

    def refuse_replace(path: Path, target: Path) -> Path:
        if step == "replace" and path.name == ".c.h5.growing":
            raise OSError(errno.EACCES, "no")
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse_open)
        patched.setattr(Path, "replace", refuse_replace)
        with pytest.raises(OSError, match=r"too many files|no"):
            file.write("whole", FIRST_ROOM, rows)
    assert psutil.Process().num_fds() == before
    assert [path.name for path in tmp_path.iterdir()] == ["c.h5"]
    assert are_equal(file.read("whole", range(5)).arrays, rows)
    file.write("whole", FIRST_ROOM, rows)
    assert file.read("whole", range(FIRST_ROOM, FIRST_ROOM + 5)).present.all()
    file.close()


def test_what_is_forgotten_is_forgotten_after_a_power_failure_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = opened(tmp_path / "c.h5")
    file.write("whole", 0, random_rows(WHOLE, 5, seed=0))
    synced: list[bool] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.path.samestat(os.fstat(descriptor), (tmp_path / "c.h5").stat()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    file.truncate(2, ["whole", "parts"])
    assert synced == [True]  # of the other group there was nothing
    file.close()

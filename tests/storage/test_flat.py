import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.flat import Blank, FlatWriter, create_flat


def create(path: Path) -> None:
    create_flat(
        path,
        {
            "/a/rows": Blank((10, 3), np.dtype("float16"), {"dtype": "float16"}),
            "/a/empty": Blank((0, 3), np.dtype("float16")),
            "/b": np.arange(4),
        },
        {"format": "test", "sizes": [1, 2]},
    )


def test_rows_written_by_offset_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    create(path)
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float16)
    with FlatWriter(path) as writer:
        writer.write("/a/rows", 4, rows[4:])
        writer.write("/a/rows", 0, rows[:4])
        assert writer.shape("/a/rows") == (10, 3)
    with h5py.File(path) as file:
        assert np.array_equal(file["/a/rows"][:], rows)
        assert file["/a/rows"].chunks is None
        assert file["/a/empty"].shape == (0, 3)
        assert list(file["/b"]) == [0, 1, 2, 3]
        assert list(file.attrs["sizes"]) == [1, 2]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.h5", "two.h5"):
        create(tmp_path / name)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_the_file_has_its_full_size_from_the_start(tmp_path: Path) -> None:
    create(tmp_path / "x.h5")
    before = (tmp_path / "x.h5").stat().st_size
    with FlatWriter(tmp_path / "x.h5") as writer:
        writer.write("/a/rows", 0, np.ones((10, 3), dtype=np.float16))
    assert (tmp_path / "x.h5").stat().st_size == before


def test_a_file_killed_while_it_is_written_still_opens(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; import numpy as np; from pathlib import Path\n"
        "from sdlms.storage.flat import *\n"
        "path = Path(sys.argv[1])\n"
        "create_flat(path, {'/a': Blank((1000, 8), np.dtype('float32'))}, {})\n"
        "writer = FlatWriter(path)\n"
        "writer.write('/a', 7, np.full((5, 8), 3, dtype=np.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.h5")], check=False)
    assert result.returncode == -signal.SIGKILL
    with h5py.File(tmp_path / "x.h5") as file:
        assert (file["/a"][7:12] == 3).all()
        assert not file["/a"][12:].any()


@pytest.mark.parametrize(
    ("first", "rows"),
    [
        (8, np.zeros((3, 3), np.float16)),
        (-1, np.zeros((1, 3), np.float16)),
        (0, np.zeros((1, 4), np.float16)),
        (0, np.zeros((1, 3), np.float32)),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, first: int, rows: np.ndarray) -> None:
    create(tmp_path / "x.h5")
    with FlatWriter(tmp_path / "x.h5") as writer, pytest.raises(ValueError, match="/a/rows"):
        writer.write("/a/rows", first, rows)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path / "x.h5")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with FlatWriter(tmp_path / "x.h5") as writer:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"cannot write .*x\.h5: No space left"):
            writer.write("/a/rows", 0, np.zeros((1, 3), np.float16))

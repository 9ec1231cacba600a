"""A declared file is what is hashed: whatever changes it afterwards is noticed."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdlms.runs.outputs import Outputs


@pytest.fixture
def outputs(tmp_path: Path) -> Iterator[Outputs]:
    made = Outputs(tmp_path)
    yield made
    made.close()


def test_every_file_is_recorded_in_order_of_name(outputs: Outputs, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("b.csv", "below/a.bin", ".hidden", "apart"):
        (tmp_path / name).write_text(name)
    outputs.declare("b.csv", ["x", "seconds"], ["seconds"])
    records = outputs.records(apart={"apart"})
    assert [record["path"] for record in records] == [".hidden", "b.csv", "below/a.bin"]
    assert records[1] == {
        "path": "b.csv",
        "columns": ["x", "seconds"],
        "timed": ["seconds"],
        "bytes": 5,
        "sha256": hashlib.sha256(b"b.csv").hexdigest(),
    }
    assert "columns" not in records[0]


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    path.write_bytes(b"other bytes"[: path.stat().st_size])
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def replace(path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"X" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [append, overwrite, replace])
def test_a_declared_file_must_not_change(
    outputs: Outputs, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "a.bin").write_bytes(b"first bytes")
    outputs.declare("a.bin")
    change(tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin changed after it was declared"):
        outputs.records(apart=set())


def test_a_declared_file_must_stay(outputs: Outputs, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1")
    outputs.declare("a.bin")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ValueError, match=r"not in the run: a\.bin"):
        outputs.records(apart=set())


def test_a_file_outside_is_no_output(outputs: Outputs, tmp_path: Path) -> None:
    outside = tmp_path.parent / "outside.bin"
    outside.write_bytes(b"1")
    outputs.declare("../outside.bin")
    with pytest.raises(ValueError, match=r"not in the run"):
        outputs.records(apart=set())


def test_only_plain_files_are_outputs(outputs: Outputs, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no plain file"):
        outputs.declare("absent.csv")
    (tmp_path / "target").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ValueError, match="link is no plain file"):
        outputs.records(apart=set())
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no plain file"):
        outputs.records(apart=set())

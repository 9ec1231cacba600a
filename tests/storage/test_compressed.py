"""Compressed files give what was packed into them, or one line about what is wrong."""

import bz2
import errno
import gzip
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage.compressed import content_name, is_compressed, open_binary

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
every_suffix = pytest.mark.parametrize("suffix", list(PACK))


def content(path: Path) -> bytes:
    with open_binary(path) as file:
        return file.read()


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        content(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@every_suffix
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_what_was_packed_comes_back_also_in_several_parts(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("packed") / f"a.TXT{suffix.upper()}"
    path.write_bytes(b"".join(PACK[suffix](part) for part in parts))
    assert content(path) == b"".join(parts)


@every_suffix
def test_lines_are_read_one_by_one(tmp_path: Path, suffix: str) -> None:
    lines = [b"%d\n" % number for number in range(100_000)]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](b"".join(lines)))
    with open_binary(path) as file:
        assert list(file) == lines


def test_other_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "gz").write_bytes(gzip.compress(b"a"))
    assert content(tmp_path / "gz") == gzip.compress(b"a")


@every_suffix
@pytest.mark.parametrize("n_missing", [1, 4, 5000])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, suffix: str, n_missing: int) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(PACK[suffix](os.urandom(10_000) + b"text\n" * 10_000)[:-n_missing])
    assert refusal(path).endswith("; is it complete?")


@every_suffix
@pytest.mark.parametrize("damage", [b"plain text, badly named", b"\0" * 100, b"PK\3\4"])
def test_a_file_that_is_something_else_is_refused(
    tmp_path: Path, suffix: str, damage: bytes
) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(damage)
    assert "cannot be decompressed (" in refusal(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])  # .zst often carries no checksum
def test_a_damaged_byte_is_noticed(tmp_path: Path, suffix: str) -> None:
    packed = bytearray(PACK[suffix](os.urandom(10_000)))
    packed[5000] ^= 255
    (tmp_path / f"a{suffix}").write_bytes(packed)
    assert "cannot be decompressed (" in refusal(tmp_path / f"a{suffix}")


def test_trouble_with_the_disk_is_no_trouble_with_the_content(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        content(tmp_path / "none.gz")
    assert error.value.errno == errno.ENOENT


def test_zst_needs_a_library_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zst").write_bytes(PACK[".zst"](b"a"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what find_spec takes for missing
    assert refusal(tmp_path / "a.zst").endswith("pip install 'sdlms[datasets]'")


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("a/b.jsonl.gz", "a/b.jsonl"),
        ("b.txt.ZST", "b.txt"),
        ("b.xz", "b"),
        ("b.txt", "b.txt"),
        (".gz", ".gz"),
        ("b.gz.txt", "b.gz.txt"),
    ],
)
def test_the_name_of_what_is_inside(name: str, inside: str) -> None:
    assert content_name(Path(name)) == Path(inside)
    assert is_compressed(Path(name)) == (name != inside)

"""Plain files: never half-written, hashed in blocks."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.storage.files import (
    CHUNK_BYTES,
    replacing,
    sha256_of,
    sync,
    write_atomically,
    write_errors,
)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_the_hash_is_that_of_the_bytes(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_writing_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=rf"^cannot write {path}: disk full\.$"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_content_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    seen: list[bool] = []
    real = os.fsync

    def watch(descriptor: int) -> None:
        seen.append(path.exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_atomically(path, b"content")
    assert seen == [False, True]  # the file before, the folder after


def test_files_and_folders_can_be_synced(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    sync(tmp_path / "file")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        for piece in (b"one ", b"two ", b"three"):
            file.write(piece)
            file.flush()
            assert not path.exists()
    assert path.read_bytes() == b"one two three"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.partial").write_bytes(b"something longer than the content")
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from sdlms.errors import UserError
from sdlms.storage import files, latents, sae_files, sparse_acts, tables, tensors

folder, zeros = Path(sys.argv[1]), np.zeros(100_000, np.float32)
rows = ({"x": number} for number in range(100_000))
wide = {latents.LatentsMember("resid_post", 1, "a"): 10_000}
header = latents.LatentsHeader("m", "", "", wide, ["d"], ["t"])
entries = sparse_acts.Entries(np.ones(50_000, np.int32), zeros.view(np.int32), zeros)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for write in (
    lambda path: files.write_atomically(path, bytes(200_000)),
    lambda path: tensors.write_tensors(path, {"a": zeros}, {}),
    lambda path: tables.write_table(path, ["x"], rows),
    lambda path: sae_files.write_sae(path, {"W_dec": zeros}, {}),
    lambda path: latents.create_latents(path, header),
    lambda path: sparse_acts.SparseAppender(path, 1, 0, 0).append(entries),
):
    path = folder / "it"
    if write.__code__.co_names[0] in ("sae_files", "sparse_acts"):
        path = folder / "its folder"
        path.mkdir(exist_ok=True)
    try:
        write(path)
    except UserError as error:
        print(error)
print(sorted(each.name for each in folder.iterdir() if each.is_file()))
"""


def test_a_full_disk_is_one_line_whatever_is_written(tmp_path: Path) -> None:
    """As a limit on the size of files, which is refused by the same calls."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True
    )
    *lines, left = done.stdout.splitlines()
    folder = tmp_path / "its folder"
    its = [*["it"] * 3, folder / "sae_weights.safetensors", "it", folder / "layer_1.counts"]
    assert lines[:4] == [f"cannot write {tmp_path / name}: File too large." for name in its[:4]]
    assert lines[4].startswith(f"cannot write {tmp_path / 'it'}: ")
    assert lines[5:] == [f"cannot write {its[5]}: File too large."]
    assert done.stderr == ""
    assert left in ("[]", "['.it.partial']")  # HDF5 leaves it; the next try replaces it


def test_other_errors_of_a_block_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file") as file:
        file.write(b"half")
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyError), write_errors(tmp_path):
        raise KeyError


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing/file"
    with pytest.raises(UserError, match=f"^cannot write {path}: No such file or directory.$"):
        write_atomically(path, b"")

"""Every change of a finished run is found and named."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.runs.folder import hidden_name, make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, find_run
from sdlms.runs.verifying import intact, verify
from tests.runs.small_runs import make_partial, make_run


@pytest.fixture(scope="module")
def own_copy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = make_run(tmp_path_factory.mktemp("artifacts"))
    assert verify(run) == []
    make_writable(run.path)
    assert verify(run) == []  # modes are no content
    return run


FILES = (META, "logs/run.log", "table.csv", "below/data.bin")


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255)
)
def test_any_flipped_byte_of_any_file_is_found_and_named(
    own_copy: Run, name: str, place: float, mask: int
) -> None:
    path = own_copy.path / name
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(place * len(content))] ^= mask
    try:
        path.write_bytes(flipped)
        found = verify(Run(own_copy.path))
        assert len(found) == 1
        assert found[0].startswith(f"{name}: ")
    finally:
        path.write_bytes(content)
    assert verify(Run(own_copy.path)) == []


@pytest.mark.parametrize("name", [*FILES, "empty.bin"])
@pytest.mark.parametrize("how", ["missing", "longer", "link", "folder"])
def test_a_file_that_is_no_longer_what_it_was_is_named(tmp_path: Path, name: str, how: str) -> None:
    run = make_run(tmp_path)
    make_writable(run.path)
    path = run.path / name
    content = path.read_bytes()
    if how == "longer":
        path.write_bytes(content + b"\0")
    else:
        path.unlink()
    if how == "link":  # the same bytes today, but whose tomorrow?
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    if how == "folder":
        path.mkdir()
    found = verify(Run(run.path))
    if name == META and how == "link":
        return  # the seal holds, wherever it lies
    assert any(line.startswith(f"{name}: ") for line in found)


@pytest.mark.parametrize("name", ["extra", ".hidden", "below/.hidden", "new/file", ".scratch/x"])
def test_an_added_file_is_named(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path)
    make_writable(run.path)
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).touch()
    assert f"{name}: added" in verify(run)


def test_added_folders_links_and_odd_names_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    make_writable(run.path)
    (run.path / "empty").mkdir()
    (run.path / "link").symlink_to(tmp_path)
    Path(os.fsdecode(bytes(run.path / "odd-") + b"\xff")).touch()
    assert verify(run) == ["empty: added", "link: added", "odd-\\udcff: added"]


def test_an_input_that_changed_is_named(tmp_path: Path) -> None:
    first = make_run(tmp_path, "first")
    second = make_run(tmp_path, "second", inputs=(first,))
    assert verify(second) == []
    make_writable(first.path)
    (first.path / META).write_bytes((first.path / META).read_bytes() + b"\n")
    assert [line.startswith(f"input {first.name}: ") for line in verify(Run(second.path))] == [True]
    shutil.rmtree(first.path)
    assert verify(Run(second.path)) == []  # moved away, perhaps: nothing to compare with


def test_a_partial_run_is_not_verified(tmp_path: Path) -> None:
    assert verify(make_partial(tmp_path)) == ["not published (failed)"]


def test_a_sealed_run_that_was_never_renamed_is_not_verified(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    hidden = run.path.with_name(hidden_name(run.name))
    run.path.rename(hidden)
    assert not Run(hidden).complete
    assert verify(Run(hidden)) == ["not published (interrupted)"]


def test_a_moved_and_renamed_run_is_still_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "other").mkdir()
    moved = run.path.rename(tmp_path / "other/mine")
    assert verify(Run(moved)) == []
    assert find_run(tmp_path, str(moved)).stage == "tiny"


def test_a_file_is_taken_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert intact(run, "table.csv") == run.path / "table.csv"
    with pytest.raises(UserError, match=rf"{run.name} holds no other\.csv"):
        intact(run, "other.csv")
    make_writable(run.path)
    path = run.path / "table.csv"
    for content in (b"x,y\n1,3\n", b"x,y\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"is damaged .* See: sdlms runs verify {run.name}"):
            intact(run, "table.csv")
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        intact(run, "table.csv")

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.flat import Array, FlatWriter
from sdlms.storage.latents import (
    COLUMNS,
    LOG_DENSITY_EDGES,
    LatentsHeader,
    LatentsMember,
    LatentsReader,
    create_latents,
    predicted_bytes,
    task_names,
    write_member,
)

NARROW = LatentsMember("mlp_act", 10, "k_3_seed0")
WIDE = LatentsMember("mlp_act", 2, "l1_0.3_seed1")
HEADER = LatentsHeader(
    model="m",
    revision="abc",
    sae="20261120_143022_sae-train",
    widths={NARROW: 4, WIDE: 7},
    document_ids=["d0", "d1", "d2"],
    document_tasks=["zähl", "add", "zähl"],
)


def some_arrays(header: LatentsHeader, member: LatentsMember, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 100, size=shape).astype(COLUMNS[name].dtype)
        for name, shape in header.shapes(member).items()
    }


def write(path: Path, header: LatentsHeader = HEADER, *, backwards: bool = False) -> Path:
    create_latents(path, header)
    members = list(header.widths)
    with FlatWriter(path) as writer:
        for member in reversed(members) if backwards else members:
            write_member(writer, header, member, some_arrays(header, member))
    return path


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    with LatentsReader(write(tmp_path / "latents.h5")) as reader:
        assert reader.members() == [NARROW, WIDE]
        assert reader.document_ids() == ["d0", "d1", "d2"]
        assert reader.document_tasks() == ["zähl", "add", "zähl"]
        assert reader.tasks() == ["zähl", "add"]
        assert reader.attributes["sae"] == HEADER.sae
        for member in HEADER.widths:
            for name, expected in some_arrays(HEADER, member).items():
                found = reader.array(member, name)
                assert found.dtype == expected.dtype
                assert np.array_equal(found, expected)


def test_the_layout_is_what_the_page_says(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "latents.h5")) as file:
        found = dict(file.attrs)
        assert (found["format"], found["version"]) == ("sdlms latents", 1)
        assert (found["model"], found["revision"]) == ("m", "abc")
        assert list(found["sites"]) == ["mlp_act", "mlp_act"]
        assert list(found["layers"]) == [10, 2]
        assert list(found["members"]) == ["k_3_seed0", "l1_0.3_seed1"]
        assert list(found["widths"]) == [4, 7]
        group = file["/mlp_act/layer_2/l1_0.3_seed1"]
        assert set(group) == set(COLUMNS)
        assert group["document_counts"].shape == (3, 7)
        assert group["task_counts"].shape == (2, 7)
        assert group["top_activation"].shape == (7, 10)
        assert group["neighbour"].shape == (7, 5)
        assert group["log_density_count"].shape == (25,)
        edges = file["/log_density_edges"][:]
        assert (edges[0], edges[-1], len(edges)) == (-6, 0, 25)
        assert np.array_equal(np.diff(edges), np.full(24, 0.25))
        assert np.array_equal(edges, LOG_DENSITY_EDGES)


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a.h5").read_bytes()
    assert write(tmp_path / "b.h5", backwards=True).read_bytes() == first
    assert write(tmp_path / "a.h5").read_bytes() == first  # a second try replaces the file


@pytest.mark.parametrize("n_documents", [0, 1])
def test_empty_data_sets_are_there(tmp_path: Path, n_documents: int) -> None:
    header = LatentsHeader("m", "", "run", {NARROW: 1}, ["d"] * n_documents, ["t"] * n_documents)
    with LatentsReader(write(tmp_path / "latents.h5", header)) as reader:
        assert reader.tasks() == ["t"] * n_documents
        assert reader.document_ids() == ["d"] * n_documents
        assert reader.array(NARROW, "document_counts").shape == (n_documents, 1)
        assert reader.array(NARROW, "top_document").shape == (1, 10)


def test_without_members_there_are_documents(tmp_path: Path) -> None:
    header = LatentsHeader("m", "", "run", {}, ["d"], ["t"])
    with LatentsReader(write(tmp_path / "latents.h5", header)) as reader:
        assert reader.members() == []
        assert reader.document_ids() == ["d"]
        with pytest.raises(UserError, match="Known: -"):
            reader.array(NARROW, "neighbour")


def test_the_prediction_is_what_arrays_take(tmp_path: Path) -> None:
    header = LatentsHeader("m", "", "run", {NARROW: 5000}, ["d"] * 20, ["t"] * 20)
    size = write(tmp_path / "latents.h5", header).stat().st_size
    assert predicted_bytes(header) <= size <= predicted_bytes(header) + 20_000


def test_tasks_come_in_the_order_of_their_first_document() -> None:
    assert task_names(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


def test_arrays_that_do_not_fit_are_our_bug(tmp_path: Path) -> None:
    path = tmp_path / "latents.h5"
    create_latents(path, HEADER)
    good = some_arrays(HEADER, NARROW)
    with FlatWriter(path) as writer:
        with pytest.raises(ValueError, match="a member has"):
            write_member(writer, HEADER, NARROW, {"neighbour": good["neighbour"]})
        with pytest.raises(ValueError, match="firing_count is int64"):
            wrong = good | {"firing_count": good["firing_count"].astype(np.int32)}
            write_member(writer, HEADER, NARROW, wrong)
        with pytest.raises(ValueError, match=r"top_document is int32 \(4, 10\)"):
            wrong = good | {"top_document": good["top_document"][1:]}
            write_member(writer, HEADER, NARROW, wrong)


def test_other_files_are_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "latents.h5")
    with h5py.File(path, "a") as file:
        file.attrs["version"] = 2
    (tmp_path / "text.h5").write_text("text")
    for name, message in (
        ("latents.h5", "is 'sdlms latents' version 2; this sdlms reads 'sdlms latents' version 1"),
        ("text.h5", "cannot read .*text.h5"),
        ("absent.h5", "cannot read .*absent.h5"),
    ):
        with pytest.raises(UserError, match=message) as error:
            LatentsReader(tmp_path / name)
        assert "\n" not in str(error.value)


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with LatentsReader(write(tmp_path / "latents.h5")) as reader:
        with pytest.raises(UserError, match="Did you mean 'neighbour'"):
            reader.array(WIDE, "neighbor")
        with pytest.raises(UserError, match=r"has no /mlp_act/layer_3/x. Known: /mlp_act/layer_10"):
            reader.array(LatentsMember("mlp_act", 3, "x"), "neighbour")


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    create_latents(tmp_path / "latents.h5", HEADER)
    with FlatWriter(tmp_path / "latents.h5") as writer:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"cannot write .*latents\.h5: No space left"):
            write_member(writer, HEADER, NARROW, some_arrays(HEADER, NARROW))

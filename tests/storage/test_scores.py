"""What probes say, on disk: each value at its place, complete only once that is said."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.storage.scores import Scores

KINDS = ("logistic", "shuffled_labels")


def test_values_come_back_whatever_the_order_and_pieces(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 7)).astype(np.float32)
    with Scores(tmp_path / "scores.h5", KINDS, 3, 7) as scores:
        for member in (2, 0, 1):
            for first, last in ((5, 7), (0, 2), (2, 5)):
                scores.write("logistic", member, first, values[member, first:last])
        scores.write("shuffled_labels", 1, 3, np.array([9], dtype=np.float32))
        for member in range(3):
            assert np.array_equal(scores.read("logistic", member), values[member])
        assert scores.read("shuffled_labels", 1)[3] == 9


def test_values_are_written_run_by_run(tmp_path: Path) -> None:
    examples = np.array([1, 2, 3, 7, 9, 10])
    values = np.arange(6, dtype=np.float32) + 10
    with Scores(tmp_path / "s.h5", KINDS, 2, 12) as scores:
        scores.write("logistic", 1, 0, np.zeros(12, dtype=np.float32))
        scores.write_at("logistic", 1, examples, values)
        scores.write_at("logistic", 1, examples[:0], values[:0])
        found = scores.read("logistic", 1)
        with pytest.raises(ValueError, match="5 values for 6 examples"):
            scores.write_at("logistic", 1, examples, values[:5])
    assert found[examples].tolist() == values.tolist()
    assert found.sum() == values.sum()


def test_a_kind_is_done_when_that_is_said_and_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "scores.h5"
    with Scores(path, KINDS, 3, 2) as scores:
        scores.write("logistic", 1, 0, np.array([0.25, 0.5], dtype=np.float32))
        assert not scores.is_done("logistic")
        scores.finish("logistic", [True, False, True])
        assert scores.is_done("logistic")
        assert not scores.is_done("shuffled_labels")
    with Scores(path, KINDS, 3, 2) as again:  # nothing is emptied
        assert again.is_done("logistic")
        assert again.converged("logistic").tolist() == [True, False, True]
        assert again.read("logistic", 1).tolist() == [0.25, 0.5]
        again.finish("shuffled_labels", np.array([False] * 3))
        assert again.is_done("shuffled_labels")


def test_what_is_done_was_synced_before_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlms.storage.flat import FlatWriter

    calls: list[str] = []
    write, sync = FlatWriter.write, FlatWriter.sync

    def noting(self: FlatWriter, name: str, first_row: int, rows: np.ndarray) -> None:
        calls.append(name.rpartition("/")[2])
        write(self, name, first_row, rows)

    def noting_sync(self: FlatWriter) -> None:
        calls.append("sync")
        sync(self)

    with Scores(tmp_path / "scores.h5", KINDS, 1, 1) as scores:
        monkeypatch.setattr(FlatWriter, "write", noting)
        monkeypatch.setattr(FlatWriter, "sync", noting_sync)
        scores.write("logistic", 0, 0, np.ones(1, dtype=np.float32))
        scores.finish("logistic", [True])
    assert calls == ["probabilities", "converged", "sync", "done", "sync"]


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    n_members, n_examples = 16, 200
    with Scores(tmp_path / "scores.h5", KINDS, n_members, n_examples) as scores:

        def fill(member: int) -> None:
            for example in range(n_examples):
                value = np.array([member * 1000 + example], dtype=np.float32)
                scores.write("logistic", member, example, value)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fill, range(n_members)))
        found = np.stack([scores.read("logistic", member) for member in range(n_members)])
    assert np.array_equal(found, np.arange(16)[:, None] * 1000.0 + np.arange(200))


@pytest.mark.parametrize(
    ("member", "first", "n"), [(0, 7, 1), (1, 6, 2), (2, 6, 2), (3, 0, 1), (-1, 0, 1), (1, -1, 1)]
)
def test_a_probe_writes_at_its_own_examples_only(
    tmp_path: Path, member: int, first: int, n: int
) -> None:
    with Scores(tmp_path / "scores.h5", KINDS, 3, 7) as scores:
        with pytest.raises(ValueError, match="outside"):
            scores.write("logistic", member, first, np.ones(n, dtype=np.float32))


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    with Scores(tmp_path / "scores.h5", KINDS, 1, 1):
        pass
    with h5py.File(tmp_path / "scores.h5") as file:
        assert (file.attrs["format"], file.attrs["version"]) == ("sdlms scores", 1)
        assert sorted(file) == sorted(KINDS)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.h5"]

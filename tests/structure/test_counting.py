from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.counting import (
    counted,
    document_counts,
    threshold_curve_counts,
    write_firings,
)
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import AUTO, ThresholdRule
from sdlms.structure.thresholds import curve_thresholds, thresholds_of
from tests.acts.samples import Sample, rows_with, sample
from tests.acts.sparse_samples import sparse_sample
from tests.stages.probe_runs import masked, published
from tests.structure.read_runs import (
    brute_counts,
    captured,
    damage,
    published_latents,
    tokens_of,
    with_tasks,
)

LENGTHS = (30, 1, 27, 44, 12, 36)
TASKS = ("c", "a", "b", "a")
N_UNITS = 13


def dense(work: Path, dtype: torch.dtype = torch.float16) -> Subject:
    data = with_tasks(sample(LENGTHS, 5, n_units=N_UNITS, dtype=dtype), TASKS)
    return open_subject(published(work, data), None, ("all",), AUTO)


def latents(work: Path) -> Subject:
    data = with_tasks(sparse_sample(LENGTHS, 6, n_units=N_UNITS), TASKS)
    return open_subject(published_latents(work, data), None, ("all",), AUTO)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ["--layers", "0,2", "--skip-first", 3]
    return captured(tmp_path_factory.mktemp("artifacts"), *words)


@pytest.mark.parametrize("open_one", [dense, latents])
def test_counts_are_those_of_a_loop(tmp_path: Path, open_one: Callable[[Path], Subject]) -> None:
    subject = open_one(tmp_path)
    for layer in subject.layers:
        thresholds = thresholds_of(subject, layer)
        found = document_counts(subject, layer, thresholds)
        assert found.counts.dtype == np.uint32
        assert found.counts.tolist() == brute_counts(subject, layer, thresholds)
        assert found.n_tokens.tolist() == [len(rows) for rows in tokens_of(subject, layer)]
        assert (found.n_tokens == subject.documents.n_tokens).all()
        assert [found.task_names[t] for t in found.tasks[:3]] == ["c", "a", "b"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_stored_type_is_read_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    subject = dense(tmp_path, dtype)
    thresholds = thresholds_of(subject, 1)
    found = document_counts(subject, 1, thresholds)
    assert found.counts.tolist() == brute_counts(subject, 1, thresholds)


def test_under_its_own_rule_a_captures_counts_are_taken(run: Run) -> None:
    subject = open_subject(run, None, ("all",), AUTO)
    for layer in (0, 2):
        thresholds = thresholds_of(subject, layer)
        found = document_counts(subject, layer, thresholds)
        (streamed,) = counted(subject, layer, [thresholds])
        assert np.array_equal(found.counts, streamed.counts)
        assert found.n_tokens is streamed.n_tokens
        assert found.task_names == (
            "python_code", "math", "qa", "prose", "dialogue", "reasoning",
        )  # fmt: skip
        assert found.counts.tolist() == brute_counts(subject, layer, thresholds)


def test_a_run_without_activations_has_the_same_counts(tmp_path: Path, run: Run) -> None:
    kept = open_subject(run, None, ("2",), AUTO)
    other = captured(tmp_path, "--layers", "0,2", "--skip-first", 3, "--no-save")
    subject = open_subject(other, None, ("2",), AUTO)
    limits = [thresholds_of(each, 2) for each in (kept, subject)]
    assert np.array_equal(*limits)
    found = [document_counts(each, 2, limits[0]).counts for each in (kept, subject)]
    assert np.array_equal(*found)
    with pytest.raises(ValueError, match="kept no activations"):
        threshold_curve_counts(subject, 2)


def test_another_rule_is_counted_anew(run: Run) -> None:
    subject = open_subject(run, None, ("2",), ThresholdRule("fixed", 0.0))
    zero = np.zeros(192, dtype=np.float32)
    assert np.array_equal(thresholds_of(subject, 2), zero)
    assert document_counts(subject, 2, zero).counts.tolist() == brute_counts(subject, 2, zero)


@pytest.mark.parametrize("open_one", [dense, latents])
def test_each_point_of_the_curve_is_counted(
    tmp_path: Path, open_one: Callable[[Path], Subject]
) -> None:
    subject = open_one(tmp_path)
    curve = threshold_curve_counts(subject, 3)
    limits = curve_thresholds(subject, 3)
    assert list(curve) == list(limits)
    for name, found in curve.items():
        assert found.counts.tolist() == brute_counts(subject, 3, limits[name])


def test_masked_tokens_never_count(tmp_path: Path) -> None:
    data = sample((40, 40), 7, layers=(1,), n_units=3, holes=False)
    mask = np.arange(80) % 2
    data.acts[1][:] = torch.from_numpy(100.0 * (1 - mask))[:, None]
    subject = open_subject(published(tmp_path, masked(data, mask)), None, ("all",), AUTO)
    zero = np.zeros(3, dtype=np.float32)
    found = document_counts(subject, 1, zero)
    assert not found.counts.any()
    assert found.n_tokens.tolist() == [20, 20]
    everywhere = np.full(3, -1, dtype=np.float32)
    (always,) = counted(subject, 1, [everywhere])
    assert (always.counts == 20).all()
    assert write_firings(subject, 1, everywhere, always, tmp_path / "f.h5").n_tokens == 40


def brute_bits(
    subject: Subject, layer: int, limits: NDArray[np.float32], units: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Rows of all documents, the first task's first, in a plain loop."""
    rows = tokens_of(subject, layer)
    tasks = subject.documents.tasks.tolist()
    order = [d for task in range(max(tasks) + 1) for d in range(len(tasks)) if tasks[d] == task]
    return np.concatenate([(rows[d] > limits)[:, units] for d in order]).astype(np.uint8)


@pytest.mark.parametrize("open_one", [dense, latents])
@pytest.mark.parametrize("value", [-9.0, 0.0, 1.2])
def test_firings_are_those_of_a_loop_in_the_order_of_tasks(
    tmp_path: Path, open_one: Callable[[Path], Subject], value: float
) -> None:
    subject = open_one(tmp_path)
    limits = np.full(N_UNITS, value, dtype=np.float32)
    limits[0], limits[1] = 100, -100  # never and always
    for layer in subject.layers:
        (counts,) = counted(subject, layer, [limits])
        found = write_firings(subject, layer, limits, counts, tmp_path / f"{layer}.h5")
        fired = np.array(brute_counts(subject, layer, limits)).sum(axis=0)
        units = [u for u, n in enumerate(fired) if 10 <= n < subject.n_tokens]
        assert found.units.tolist() == units
        assert {0, 1}.isdisjoint(units)
        assert found.task_names == ("c", "a", "b")
        tokens = subject.documents.n_tokens
        groups = [np.flatnonzero(subject.documents.tasks == task) for task in range(3)]
        assert np.diff(found.task_bounds).tolist() == [len(group) for group in groups]
        assert np.diff(found.offsets).tolist() == tokens[np.concatenate(groups)].tolist()
        bits = found.read(0, found.n_documents)
        assert np.array_equal(bits, brute_bits(subject, layer, limits, found.units))
        by_task = [
            found.read(*found.task_bounds[t : t + 2]).sum(axis=0, dtype=np.int64) for t in range(3)
        ]
        assert np.array_equal(np.array(by_task), counts.task_counts[:, found.units])


def test_a_unit_needs_ten_firings(tmp_path: Path) -> None:
    acts = torch.zeros(30, 4)
    for unit, n in enumerate((9, 10, 29, 30)):
        acts[:n, unit] = 1
    data = Sample({1: acts}, rows_with([10, 20]))
    subject = open_subject(published(tmp_path, data), None, ("all",), AUTO)
    zero = np.zeros(4, dtype=np.float32)
    (counts,) = counted(subject, 1, [zero])
    assert write_firings(subject, 1, zero, counts, tmp_path / "f.h5").units.tolist() == [1, 2]


def test_what_an_earlier_try_finished_is_taken(tmp_path: Path) -> None:
    subject = dense(tmp_path)
    limits = thresholds_of(subject, 1)
    counts = document_counts(subject, 1, limits)
    path = tmp_path / "f.h5"
    first = write_firings(subject, 1, limits, counts, path)
    damage(subject.run.path / "activations.h5")  # not read again
    again = write_firings(subject, 1, limits, counts, path)
    assert np.array_equal(again.read(0, 6), first.read(0, 6))
    damage(path)
    with pytest.raises(UserError, match="without --resume"):
        write_firings(subject, 1, limits, counts, path)
    path.unlink()
    with pytest.raises(UserError, match="changed since it was loaded"):
        write_firings(subject, 1, limits, counts, path)
    assert not path.exists()


def test_a_damaged_run_is_one_line(tmp_path: Path) -> None:
    run = captured(tmp_path, "--tasks", "qa", "--layers", 0)
    subject = open_subject(run, None, ("all",), AUTO)
    limits = thresholds_of(subject, 0)
    damage(run.path / "counts.h5")
    with pytest.raises(UserError, match=r"counts\.h5: damaged"):
        document_counts(subject, 0, limits)

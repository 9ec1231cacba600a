from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdlms.acts.sparse_source import source_of
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.documents import Documents, documents_of
from tests.acts.samples import Sample, rows_with, sample
from tests.stages.probe_runs import masked, published
from tests.structure.read_runs import captured, with_tasks


def read(work: Path, data: Sample) -> Documents:
    run = published(work, data)
    return documents_of(run, source_of(run, work, None))


def test_documents_without_a_readable_token_are_left_out(tmp_path: Path) -> None:
    mask = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1, 0], dtype=np.uint8)
    data = Sample({1: sample([10], n_units=2).acts[1]}, rows_with([2, 3, 0, 2, 2, 1], mask))
    found = read(tmp_path, with_tasks(data, ["b", "a", "c"]))
    assert found.indices.tolist() == [1, 3, 4]
    assert found.ids == tuple(data.rows.document_ids[i] for i in (1, 3, 4))
    assert found.n_tokens.tolist() == [2, 1, 2]
    assert found.task_names == ("a", "b")
    assert found.tasks.tolist() == [0, 1, 0]


def test_counts_alone_tell_the_same(tmp_path: Path) -> None:
    words = ["--tasks", "qa,math,prose", "--layers", 0, "--skip-first", 60]
    run = captured(tmp_path, *words)
    whole, counted = documents_of(run, source_of(run, tmp_path, None)), documents_of(run, None)
    assert whole.task_names == counted.task_names == ("math", "qa", "prose")
    assert 0 < len(whole.ids) < len(source_of(run, tmp_path, None).description.document_ids)
    assert whole.ids == counted.ids
    for name in ("indices", "n_tokens", "tasks"):
        assert np.array_equal(getattr(whole, name), getattr(counted, name)), name


def test_documents_without_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="says of no document which task"):
        read(tmp_path, with_tasks(sample([3, 4]), [""]))


def test_a_task_by_the_name_of_all_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has a task 'all', which is the name of the row"):
        read(tmp_path, with_tasks(sample([3, 4]), ["math", "all"]))


def test_tasks_are_counted(tmp_path: Path) -> None:
    data = with_tasks(sample([3, 4, 2], holes=False), ["b", "a", "b"])
    found = read(tmp_path, data)
    assert found.by_task() == {"b": 2, "a": 1}
    assert found.tokens_by_task() == {"b": 5, "a": 4}


def test_documents_without_tokens_are_refused(tmp_path: Path) -> None:
    data = sample([3, 4])
    with pytest.raises(UserError, match=r"every token is special or skipped\. Lower --skip-first"):
        read(tmp_path, masked(data, np.zeros(7)))


def test_a_run_that_lost_its_counts_is_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"counts\.h5: damaged, or gone"):
        documents_of(run, None)


def test_the_order_of_a_run_stays(tmp_path: Path) -> None:
    data = sample([3, 4, 2], holes=False)
    rows = replace(data.rows, document_ids=["c", "a", "b"], document_tasks=["y", "x", "y"])
    found = read(tmp_path, Sample(data.acts, rows))
    assert (found.ids, found.task_names) == (("c", "a", "b"), ("y", "x"))

import numpy as np
from numpy.typing import NDArray

from sdlms.structure.firing import DocumentCounts


def random_counts(seed: int, n_documents: int = 12, n_units: int = 5) -> DocumentCounts:
    generator = np.random.default_rng(seed)
    n_tokens = generator.integers(3, 9, n_documents)
    counts = generator.integers(0, n_tokens[:, None] + 1, (n_documents, n_units))
    tasks = np.concatenate([[0, 1, 2], generator.integers(0, 3, n_documents - 3)])
    return DocumentCounts(counts.astype(np.uint32), n_tokens, tasks, ("a", "b", "c"))


def summed(counts: DocumentCounts, values: NDArray[np.generic], task: int) -> int:
    own = [value for value, its in zip(values, counts.tasks, strict=True) if its == task]
    return int(sum(own))


def test_sums_over_tasks_equal_a_loop() -> None:
    for seed in range(3):
        counts = random_counts(seed)
        assert (counts.n_tasks, counts.n_units) == (3, 5)
        for task in range(3):
            assert counts.task_tokens[task] == summed(counts, counts.n_tokens, task)
            assert counts.task_documents[task] == summed(counts, np.ones(12), task)
            for unit in range(5):
                expected = summed(counts, counts.counts[:, unit], task)
                assert counts.task_counts[task, unit] == expected


def test_each_document_belongs_to_one_task() -> None:
    members = random_counts(0).members
    assert members.shape == (3, 12)
    assert (members.sum(axis=0) == 1).all()


def test_counts_of_many_tokens_do_not_wrap() -> None:
    most = np.full((2, 1), 2**32 - 1, dtype=np.uint32)
    counts = DocumentCounts(most, np.full(2, 2**32), np.zeros(2, dtype=np.int64), ("a",))
    assert counts.task_counts[0, 0] == 2 * (2**32 - 1)

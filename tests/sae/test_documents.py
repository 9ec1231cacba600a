"""Roles of documents: disjoint, by task, seeded, and small enough."""

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.sae.documents import Budgets, documents_by_role

COUNTS = np.array([10, 20, 0, 30, 5] * 20)
TASKS = ["a", "b", "b", "a", "c"] * 20


def test_a_fifth_of_each_task_is_held_back() -> None:
    roles = documents_by_role(COUNTS, TASKS, 0, Budgets(10_000, 10_000, 10_000))
    together = np.concatenate([roles.training, roles.held_out])
    assert sorted(together.tolist()) == np.flatnonzero(COUNTS).tolist()
    for task, n_documents in (("a", 40), ("b", 20), ("c", 20)):
        assert sum(TASKS[d] == task for d in roles.held_out) == n_documents / 5
    assert roles.measured.tolist() == roles.held_out.tolist() == roles.scored.tolist()
    assert [split for _, split in roles.splits()].count("validation") == 16


def test_what_is_measured_stays_within_its_tokens() -> None:
    roles = documents_by_role(COUNTS, TASKS, 0, Budgets(9_999, 100, 40))
    assert set(roles.scored) < set(roles.measured) < set(roles.held_out)
    assert 60 < COUNTS[roles.measured].sum() <= 100
    assert 10 <= COUNTS[roles.scored].sum() <= 40
    assert documents_by_role(COUNTS, TASKS, 0, Budgets(9_999, 100, 0)).scored.tolist() == []


def test_the_seed_decides() -> None:
    first, same, other = (
        documents_by_role(COUNTS, TASKS, seed, Budgets(999, 99, 9)) for seed in (0, 0, 1)
    )
    assert first.held_out.tolist() == same.held_out.tolist() != other.held_out.tolist()


def test_tasks_of_one_document_still_leave_one_to_measure_on() -> None:
    roles = documents_by_role(np.array([3, 4]), ["a", "b"], 0, Budgets(100, 100, 100))
    assert roles.training.tolist() == [0]
    assert roles.held_out.tolist() == [1]


def test_one_document_cannot_be_split() -> None:
    with pytest.raises(UserError, match="documents with tokens: 1; at least two"):
        documents_by_role(np.array([3, 0]), ["a", "a"], 0, Budgets(100, 100, 100))


def test_no_more_is_read_than_is_learned_from() -> None:
    roles = documents_by_role(COUNTS, TASKS, 0, Budgets(200, 100, 0))
    assert 210 <= COUNTS[roles.training].sum() < 210 + COUNTS.max()
    names = dict(roles.splits())
    assert sorted(names) == np.flatnonzero(COUNTS).tolist()
    assert {names[d] for d in roles.unused} == {"unused"}
    assert {names[d] for d in roles.training} == {"train"}


def test_what_somebody_has_learned_from_is_not_measured_on() -> None:
    plain = documents_by_role(COUNTS, TASKS, 0, Budgets(10_000, 10_000, 10_000))
    known = [*plain.held_out[:3].tolist(), *plain.training.tolist()]
    roles = documents_by_role(COUNTS, TASKS, 0, Budgets(10_000, 10_000, 10_000), known)
    assert roles.held_out.tolist() == plain.held_out.tolist()
    assert roles.measured.tolist() == roles.scored.tolist() == plain.held_out[3:].tolist()
    with pytest.raises(UserError, match="all 16 documents that are held out were learned from"):
        documents_by_role(COUNTS, TASKS, 0, Budgets(10, 10, 0), range(len(COUNTS)))

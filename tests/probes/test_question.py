"""A question's examples, truth and splits, against loops; and which questions are refused."""

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.numerics.splits import TEST, TRAIN, VALIDATION, grouped_split
from sdlms.probes.labels import labelled_by_table
from sdlms.probes.question import LEARNING, ask
from sdlms.storage.labels import Label
from tests.probes.questions import LAYERS, question_of, some_acts, tasks_of, tokens_of


def test_documents_are_examples() -> None:
    acts = some_acts()
    question = question_of(acts, (3, 8), classes="abc")
    assert question.names == ["a", "b", "c"]
    assert question.layers == LAYERS
    assert len(question.members) == len(LAYERS) * 2 * 3
    assert question.offsets.tolist() == list(range(19))
    assert question.documents.tolist() == list(range(18))
    assert question.usable.all()
    assert question.class_counts == {"a": 6, "b": 6, "c": 6}
    for row, seed in enumerate((3, 8)):
        roles = grouped_split(np.arange(18), np.arange(18) % 3, seed)
        assert np.array_equal(question.roles[row], roles)
        assert question.tested_by(row).tolist() == np.flatnonzero(roles == TEST).tolist()
        assert np.array_equal(question.tested_examples(row), question.tested_by(row))
        learned = question.documents_with(row, *LEARNING)
        assert sorted([*learned, *question.tested_by(row)]) == list(range(18))
    either = set(question.tested_by(0)) | set(question.tested_by(1))
    assert set(question.tested.tolist()) == either
    for label in range(3):
        assert np.array_equal(question.truth[label], np.arange(18) % 3 == label)


@pytest.mark.parametrize("labels", ["tasks", "tokens"])
def test_tokens_are_examples(labels: str) -> None:
    acts = some_acts(30)
    labelled = tasks_of(acts) if labels == "tasks" else tokens_of(acts)
    question = ask(acts, labelled, (0, 1), by_token=True)
    mask = acts.mask
    assert mask is not None
    kept = question.acts.document_ids
    assert np.array_equal(np.diff(question.offsets), question.acts.lengths)
    for example, document in enumerate(question.documents.tolist()):
        place = acts.document_ids.index(kept[document])
        token = example - int(question.offsets[document])
        usable = bool(mask[place, token])
        if labels == "tokens":
            assert labelled.tokens is not None
            found = labelled.tokens[labelled.documents.tolist().index(place)][token]
            usable = usable and found >= 0
            if usable:
                assert question.truth[0, example] == (found == 1)
        else:
            assert question.truth[0, example] == (place % 2 == 1)
        assert question.usable[example] == usable
    for row in range(2):
        train, validation, test = (
            set(question.examples_with(row, role).tolist()) for role in (TRAIN, VALIDATION, TEST)
        )
        assert train | validation | test == set(np.flatnonzero(question.usable).tolist())
        assert not train & test and not train & validation and not validation & test
        assert set(question.tested_examples(row).tolist()) == test
        documents = question.documents
        assert not set(documents[list(train | validation)]) & set(documents[list(test)])
    assert sum(question.class_counts.values()) == question.usable.sum()
    assert question.class_counts[question.names[0]] == question.truth[0][question.usable].sum()


def test_shuffled_labels_keep_what_either_side_has() -> None:
    question = question_of(some_acts(30), range(5), classes="abc")
    for row in range(5):
        dealt = question.shuffled_truth(row)
        assert dealt.sum(axis=0).tolist() == [1] * 30  # one class each
        assert not np.array_equal(dealt, question.truth)
        for side in (question.examples_with(row, *LEARNING), question.tested_examples(row)):
            assert np.array_equal(dealt[:, side].sum(axis=1), question.truth[:, side].sum(axis=1))
        assert np.array_equal(dealt, question.shuffled_truth(row))
    assert not np.array_equal(question.shuffled_truth(0), question.shuffled_truth(1))


def test_documents_without_a_label_or_a_token_are_left_out() -> None:
    acts = some_acts(20)
    mask = acts.mask
    assert mask is not None
    rows = [Label(f"d{i}", None, "xy"[i % 2]) for i in range(0, 20) if i not in (4, 5)]
    labelled = labelled_by_table(rows, acts.document_ids, acts.lengths)
    question = ask(acts, labelled, (0,), by_token=False)
    assert question.acts.document_ids == [f"d{i}" for i in range(20) if i not in (4, 5)]
    assert np.array_equal(question.truth[0], labelled.classes == 1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("aabbb", "of class 'a' 2 documents can be read; at least 3 are needed"),
        ("abbbb", "of class 'a' 1 document can"),
    ],
)
def test_small_classes_are_refused(labels: str, message: str) -> None:
    acts = some_acts(5)
    rows = [Label(f"d{i}", None, label) for i, label in enumerate(labels)]
    labelled = labelled_by_table(rows, acts.document_ids, acts.lengths)
    with pytest.raises(UserError, match=message):
        ask(acts, labelled, (0,), by_token=False)


def test_seeds_may_test_on_every_document() -> None:
    question = question_of(some_acts(12), range(30))
    assert question.tested.tolist() == list(range(12))

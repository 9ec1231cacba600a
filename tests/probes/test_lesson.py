from dataclasses import replace

import numpy as np
import pytest
import torch

from sdlms.numerics.splits import TRAIN, VALIDATION
from sdlms.probes.lesson import is_by_token, read_examples, training_examples
from tests.probes.toy_lessons import toy_acts, toy_lesson, toy_network

CPU = torch.device("cpu")


def test_an_epoch_is_every_training_document_once() -> None:
    lesson, network = toy_lesson(), toy_network("attention")
    for epoch in range(2):
        steps = list(training_examples(network, lesson, epoch))
        read = np.concatenate([step.documents for step in steps])
        assert sorted(read) == np.flatnonzero(lesson.split.having(TRAIN)).tolist()
        own = [(lesson.split.roles[0, step.documents] == TRAIN).sum() for step in steps]
        assert np.mean(own) == pytest.approx(network.settings.batch_documents, rel=0.4)


def test_an_epoch_is_every_training_token_once_at_token_level() -> None:
    lesson, network = toy_lesson(), toy_network("mlp")
    mask = toy_acts().realize().mask.numpy()
    steps = list(training_examples(network, lesson, 0))
    found = [pair for s in steps for pair in zip(s.documents, s.tokens, strict=True)]
    trained = lesson.split.having(TRAIN)
    expected = [(d, t) for d, t in zip(*np.nonzero(mask), strict=True) if trained[d]]
    assert sorted(found) == expected
    assert np.mean([len(step.documents) for step in steps]) < 60


def test_order_knows_no_members() -> None:
    """Whom a document meets is the same with one seed as with two."""
    network = toy_network("multimax")
    both, one = (list(training_examples(network, toy_lesson(s), 3)) for s in ((0, 1), (0,)))
    trained = toy_lesson((0,)).split.having(TRAIN)
    kept = [step.documents[trained[step.documents]].tolist() for step in both]
    assert [step.documents.tolist() for step in one] == [group for group in kept if group]
    other = replace(toy_lesson((0,)), order_seed=6)
    assert [s.documents.tolist() for s in training_examples(network, other, 3)] != kept


def test_roles_and_truth_are_each_members_own() -> None:
    lesson = toy_lesson()
    members = lesson.members()
    examples = next(read_examples(toy_network("attention"), lesson.data, np.arange(6), CPU))
    having = lesson.having(VALIDATION, examples, members)
    truth = lesson.truth(examples, members)
    for member in range(len(members)):
        for column, document in enumerate(examples.documents):
            role = lesson.split.roles[members.seed[member], document]
            assert having[member, column] == (role == VALIDATION)
            assert truth[member, column] == lesson.targets.labels[members.label[member], document]


def test_examples_are_tokens_only_for_a_vector_kind_on_tokens() -> None:
    tokens, vectors = toy_lesson().data, toy_lesson(acts=toy_acts(tokens=False)).data
    assert is_by_token(toy_network("mlp"), tokens)
    assert not is_by_token(toy_network("mlp"), vectors)
    assert not is_by_token(toy_network("attention"), tokens)
    with pytest.raises(ValueError, match="attention reads tokens"):
        is_by_token(toy_network("attention"), vectors)

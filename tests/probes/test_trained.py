import numpy as np
import pytest
import torch

from sdlms.probes.evaluating import logits_of
from sdlms.probes.pieces import Piece, Room
from sdlms.probes.trained import predict_documents, predictions
from sdlms.probes.training import say_nothing, train
from tests.probes.toy_lessons import KINDS, toy_acts, toy_lesson, toy_network


@pytest.mark.parametrize("kind", KINDS[1:])
def test_documents_are_judged_in_the_order_asked_for(kind: str) -> None:
    lesson = toy_lesson()
    trained = train(toy_network(kind, max_epochs=1), lesson)
    asked, acts = np.array([31, 2, 17]), toy_acts().realize()
    found = predict_documents(trained, lesson.data, asked, say_nothing)
    piece = Piece(acts.tensor[asked].transpose(0, 1), acts.mask[asked], asked)
    room = Room(say_nothing)
    logits = logits_of(trained.network, trained.params, trained.members, piece, room)
    assert torch.allclose(torch.from_numpy(found), logits.sigmoid(), atol=1e-6)
    assert found.shape == (8, 3)


def test_tokens_are_judged_one_by_one() -> None:
    lesson = toy_lesson()
    trained = train(toy_network("mlp", max_epochs=1), lesson)
    acts = toy_acts().realize()
    asked = np.array([30, 4])
    parts = list(predictions(trained, lesson.data, asked, say_nothing))
    pairs = [pair for part in parts for pair in zip(part.documents, part.tokens, strict=True)]
    expected = [(d, t) for d in asked for t in np.flatnonzero(acts.mask[d])]
    assert sorted(pairs) == sorted(expected)
    with pytest.raises(ValueError, match="judge tokens"):
        predict_documents(trained, lesson.data, asked, say_nothing)


@pytest.mark.parametrize("kind", KINDS)
def test_one_probe_of_a_stack_predicts_as_the_stack(kind: str) -> None:
    lesson = toy_lesson()
    trained = train(toy_network(kind, max_epochs=2), lesson)
    everything = np.arange(40)
    parts = list(predictions(trained, lesson.data, everything, say_nothing))
    for member in (1, 6):
        layer = int(trained.members.layer[member])
        found = trained.probe(member).predict(toy_acts().select_layers(layer)).numpy()
        for part in parts:
            place = (part.documents,) if part.tokens is None else (part.documents, part.tokens)
            assert found[place] == pytest.approx(part.probabilities[member], abs=1e-6)
    assert trained.probe(0).settings()["converged"] is False

"""Controls: labels dealt anew within their side, directions of no one's choice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.numerics.metrics import auroc
from sdlms.probes.controls import oriented, random_direction, shuffled

LENGTHS = st.lists(st.integers(1, 5), min_size=4, max_size=12)


@given(LENGTHS, st.integers(0, 99), st.booleans())
def test_each_side_keeps_its_labels_and_nothing_else_moves(
    lengths: list[int], seed: int, of_documents: bool
) -> None:
    generator = np.random.default_rng(seed)
    documents = np.repeat(np.arange(len(lengths)), lengths)
    truth = generator.random(len(documents)) < 0.5
    if of_documents:
        truth = (np.arange(len(lengths)) % 2 == 0)[documents]
    role = generator.integers(0, 3, size=len(lengths))
    role[:2] = 0, 1
    usable = generator.random(len(documents)) < 0.8 if not of_documents else documents >= 0
    sides = [np.flatnonzero((role[documents] == side) & usable) for side in (0, 1)]
    sides = [side for side in sides if len(side)]
    dealt = shuffled(truth, documents, sides, seed)
    rest = np.setdiff1d(np.arange(len(documents)), np.concatenate(sides))
    assert np.array_equal(dealt[rest], truth[rest])
    for side in sides:
        firsts = np.flatnonzero(np.diff(documents[side], prepend=-1))
        pieces = [np.split(row[side], firsts[1:]) for row in (truth, dealt)]
        if all(len(set(piece.tolist())) == 1 for piece in pieces[0]):  # whole documents
            assert all(len(set(piece.tolist())) == 1 for piece in pieces[1])
            assert dealt[side[firsts]].sum() == truth[side[firsts]].sum()
        else:
            assert not of_documents
            assert dealt[side].sum() == truth[side].sum()
    assert np.array_equal(dealt, shuffled(truth, documents, sides, seed))


def test_stretches_of_tokens_stay_in_one_piece() -> None:
    documents = np.repeat(np.arange(4), 25)
    truth = np.zeros(100, dtype=bool)
    truth[30:40] = truth[80:85] = True
    dealt = shuffled(truth, documents, [np.arange(100)], 3)
    assert not np.array_equal(dealt, truth)
    assert dealt.sum() == truth.sum()
    # Two stretches, each cut in two at most.
    assert np.count_nonzero(np.diff(dealt)) <= 8


def test_labels_by_place_in_the_document_are_dealt_to_other_places() -> None:
    documents = np.repeat(np.arange(200), 10)
    truth = np.tile(np.arange(10) == 0, 200)
    dealt = shuffled(truth, documents, [np.arange(2000)], 0).reshape(200, 10)
    assert (dealt.sum(axis=1) == 1).all()
    assert (dealt.sum(axis=0) < 40).all() and (dealt.sum(axis=0) > 5).all()


def test_all_labels_are_dealt_alike() -> None:
    """So that a document still has one class of several."""
    documents = np.arange(30)
    classes = documents % 3
    dealt = [
        shuffled(classes == k, documents, [documents[:20], documents[20:]], 5) for k in (0, 1, 2)
    ]
    assert np.sum(dealt, axis=0).tolist() == [1] * 30


def test_directions_are_unit_and_of_their_layer_and_seed() -> None:
    one = random_direction(200, 3, 7)
    assert one.dtype == torch.float32
    assert float(one.norm()) == pytest.approx(1)
    assert torch.equal(one, random_direction(200, 3, 7))
    others = [random_direction(200, 2, 7), random_direction(200, 3, 6)]
    for other in others:
        assert abs(float(one @ other)) < 0.3
    mean = torch.stack([random_direction(3, layer, 0) for layer in range(500)]).mean(dim=0)
    assert float(mean.norm()) < 0.15


@given(st.integers(0, 50))
def test_which_way_a_direction_points_is_learned_from_training_alone(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=40).astype(np.float32)
    truth = np.arange(40) % 2 == 0
    train = np.arange(20)
    found = oriented(scores, truth, train)
    assert found.dtype == np.float32
    assert ((found > 0) & (found < 1)).all()
    expected = scores if auroc(scores[train], truth[train]) >= 0.5 else -scores
    assert auroc(found, truth) == pytest.approx(auroc(expected, truth))
    assert auroc(found[train], truth[train]) >= 0.5
    other = truth.copy()
    other[20:] = ~other[20:]  # what is tested on has no say
    assert np.array_equal(oriented(scores, other, train), found)


def test_a_direction_along_which_nothing_varies_says_nothing() -> None:
    found = oriented(np.full(6, 3, np.float32), np.arange(6) % 2 == 0, np.arange(4))
    assert found.tolist() == [0.5] * 6

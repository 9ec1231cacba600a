from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.numerics.association import select_edges
from sdlms.storage import firings as storage
from sdlms.structure.joint_counts import joint_counts
from tests.structure.firing_data import DOCUMENT_TOKENS, firings_of

DOCUMENTS = (5, 3, 9)
DEVICE = "cpu"


def random_firing(n_units: int = 21) -> np.ndarray:
    generator = np.random.default_rng(0)
    n_tokens = sum(DOCUMENTS) * DOCUMENT_TOKENS
    return generator.random((n_tokens, n_units)) < generator.uniform(0.1, 0.9, n_units)


def upper(counts: object) -> np.ndarray:
    return np.triu(np.asarray(counts))


def test_counts_are_those_of_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "BLOCK_TOKENS", 100)
    firing = random_firing().astype(int)
    bounds = np.cumsum([0, *DOCUMENTS]) * DOCUMENT_TOKENS
    rows = [firing[a:b] for a, b in pairwise(bounds)]
    found = [
        (upper(c), s.counts, s.n_tokens)
        for c, s in joint_counts(firings_of(tmp_path, firing, DOCUMENTS), DEVICE)
    ]
    assert len(found) == 5
    for own, (counts, fired, n_tokens) in zip([*rows, firing], found, strict=False):
        assert (counts == np.triu(own.T @ own)).all()
        by_document = own.reshape(-1, DOCUMENT_TOKENS, own.shape[1]).sum(axis=1)
        assert (fired == by_document).all()
        assert n_tokens.tolist() == [DOCUMENT_TOKENS] * len(by_document)
    pooled, fired, n_tokens = found[-1]
    assert (pooled == np.triu(firing.T @ firing)).all()
    assert (fired == firing.sum(axis=0)).all()
    assert n_tokens.tolist() == [len(firing)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_counts_the_same(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, random_firing(), DOCUMENTS)
    for generators in ((None, None), (np.random.default_rng(0), np.random.default_rng(0))):
        runs = (
            joint_counts(firings, *each) for each in zip((DEVICE, "cuda"), generators, strict=True)
        )
        for (counts, strata), (theirs, same) in zip(*runs, strict=True):
            assert theirs.is_cuda
            assert (upper(theirs.cpu()) == upper(counts)).all()
            assert (same.counts == strata.counts).all()
            one, other = (
                select_edges(each, strata, 50, significant_only=False).edges
                for each in (counts, theirs)
            )
            assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_rotation_keeps_how_often_each_fires(tmp_path: Path) -> None:
    firings = firings_of(tmp_path, random_firing(), DOCUMENTS)
    observed = list(joint_counts(firings, DEVICE))
    runs = [list(joint_counts(firings, DEVICE, np.random.default_rng(s))) for s in (1, 1, 2)]
    for (counts, strata), *shifted in zip(observed, *runs, strict=True):
        for rotated, same in shifted:
            assert (same.counts == strata.counts).all()
            assert (same.n_tokens == strata.n_tokens).all()
            assert (rotated.diagonal() == counts.diagonal()).all()
            assert (upper(rotated) != upper(counts)).any()
        assert (upper(shifted[0][0]) == upper(shifted[1][0])).all()
        assert (upper(shifted[0][0]) != upper(shifted[2][0])).any()


def test_no_unit(tmp_path: Path) -> None:
    firing = np.zeros((sum(DOCUMENTS) * DOCUMENT_TOKENS, 0))
    found = list(joint_counts(firings_of(tmp_path, firing, DOCUMENTS), DEVICE))
    assert [counts.shape for counts, _ in found] == [(0, 0)] * 5

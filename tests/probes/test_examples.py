import numpy as np
import pytest
import torch

from sdlms.errors import UserError
from sdlms.probes.batches import ActsBatches, Batch
from sdlms.probes.examples import documents_of, token_steps_of, tokens_of
from sdlms.probes.targets import Targets
from tests.probes.toy_lessons import toy_acts

DOCUMENTS = np.array([4, 1, 12])


def batch() -> Batch:
    return next(ActsBatches(toy_acts()).batches([DOCUMENTS]))


def some_known() -> Targets:
    """Every third token has no label."""
    lengths = toy_acts().lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    labels = np.zeros((1, offsets[-1]), dtype=bool)
    return Targets(labels, offsets, np.arange(offsets[-1]) % 3 > 0)


def test_documents_are_examples_as_they_are() -> None:
    whole = batch()
    examples = documents_of(whole)
    assert examples.documents.tolist() == DOCUMENTS.tolist()
    assert examples.tokens is None
    assert examples.x is whole.x and examples.mask is whole.mask


def test_a_document_without_a_token_is_named() -> None:
    whole = batch()
    whole.mask[1] = False
    with pytest.raises(UserError, match="document 1 has no token"):
        documents_of(whole)


@pytest.mark.parametrize("targets", [None, some_known()])
def test_tokens_are_those_of_mask_1_with_a_label(targets: Targets | None) -> None:
    whole = batch()
    examples = tokens_of(whole, targets)
    expected = []
    for row, document in enumerate(DOCUMENTS):
        for token in range(whole.mask.shape[1]):
            known = targets is None or targets.labelled[targets.offsets[document] + token]
            if whole.mask[row, token] and known:
                expected.append((document, token, whole.x[:, row, token]))
    assert examples.documents.tolist() == [document for document, _, _ in expected]
    assert examples.tokens.tolist() == [token for _, token, _ in expected]
    assert torch.equal(examples.x, torch.stack([x for _, _, x in expected], dim=1))
    assert examples.mask is None


def test_steps_share_the_tokens_out_and_empty_ones_are_left_out() -> None:
    whole, targets = batch(), some_known()
    everything = tokens_of(whole, targets)
    steps = np.zeros((3, 20), dtype=np.int64)
    steps[:, ::2] = 2
    dealt = list(token_steps_of(whole, targets, steps, 4))
    assert len(dealt) == 2
    found = [pair for part in dealt for pair in zip(part.documents, part.tokens, strict=True)]
    assert sorted(found) == sorted(zip(everything.documents, everything.tokens, strict=True))
    rows = {document: row for row, document in enumerate(DOCUMENTS)}
    for step, part in zip((0, 2), dealt, strict=True):
        for document, token in zip(part.documents, part.tokens, strict=True):
            assert steps[rows[document], token] == step


def test_vectors_have_no_tokens() -> None:
    (vectors,) = ActsBatches(toy_acts(tokens=False)).batches([DOCUMENTS])
    assert documents_of(vectors).x is vectors.x
    with pytest.raises(ValueError, match="no tokens"):
        tokens_of(vectors, None)

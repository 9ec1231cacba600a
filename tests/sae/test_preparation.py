"""What training starts from rests on training tokens; what is measured on, on held-out ones."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.acts import Acts
from sdlms.errors import UserError
from sdlms.sae import preparation
from sdlms.sae.documents import Budgets, Documents, documents_by_role
from sdlms.sae.preparation import basis, prepare
from tests.sae.sweeps import sparse_acts

LAYERS = (1, 3)


def split(acts: Acts, seed: int = 0, n_training: int = 10_000) -> Documents:
    counts = np.full(acts.n_documents, acts.lengths[0] - 1)
    return documents_by_role(counts, [""] * len(counts), seed, Budgets(n_training, 10_000, 0))


def rows_of(acts: Acts, documents: np.ndarray) -> Tensor:
    """`[layer, row, unit]`, all tokens but the first of each document, which has mask 0."""
    tensor = acts.realize().tensor[documents.tolist()][:, :, 1:]
    return tensor.transpose(0, 1).flatten(1, 2)


def with_value(acts: Acts, document: int, value: float, layer: int = 1) -> Acts:
    realized = acts.realize()
    tensor = realized.tensor.clone()
    tensor[document, layer] = value
    ids = list(acts.document_ids)
    mask = realized.mask.float()
    return Acts(tensor, "blsh", mask=mask, layers=LAYERS, documents=ids)


def test_statistics_are_those_of_training_tokens_alone() -> None:
    acts = sparse_acts()
    documents = split(acts)
    prepared = prepare(acts, documents, 64, 0)
    training = rows_of(acts, documents.training).double()
    for layer, moments in enumerate(prepared.moments):
        own = training[layer]
        torch.testing.assert_close(moments.mean, own.mean(dim=0))
        torch.testing.assert_close(moments.covariance, torch.cov(own.T, correction=0))
        assert moments.n_rows == len(own)
    moved = with_value(acts, int(documents.held_out[0]), 1000.0)
    assert torch.equal(prepare(moved, documents, 64, 0).scales, prepared.scales)
    moved = with_value(acts, int(documents.training[0]), 1000.0)
    changed = prepare(moved, documents, 64, 0).scales != prepared.scales
    assert changed.tolist() == [False, True]


def test_times_the_scale_the_mean_squared_distance_is_the_number_of_units() -> None:
    acts = sparse_acts()
    documents = split(acts)
    prepared = prepare(acts, documents, 64, 0)
    for own, scale in zip(rows_of(acts, documents.training), prepared.scales, strict=True):
        distance = (own.double() * scale.double()).var(dim=0, correction=0).sum()
        assert float(distance) == pytest.approx(acts.n_units, rel=1e-6)
    assert prepared.scales.dtype == torch.float32


def test_what_is_measured_on_is_held_out_and_in_order() -> None:
    acts = sparse_acts()
    documents = split(acts)
    prepared = prepare(acts, documents, 64, 0)
    assert torch.equal(prepared.measured.acts, rows_of(acts, documents.measured))
    assert prepared.measured.offsets.tolist() == list(range(0, 29 * 9, 29))
    assert torch.equal(prepared.validation, prepared.measured.acts)


def test_early_stopping_looks_at_a_seeded_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "VALIDATION_TOKENS", 50)
    acts = sparse_acts()
    documents = split(acts)
    first, same, other = (prepare(acts, documents, 64, seed) for seed in (0, 0, 1))
    assert first.validation.shape == (2, 50, 8)
    assert torch.equal(first.validation, same.validation)
    assert not torch.equal(first.validation, other.validation)
    held_out = {tuple(row) for row in first.measured.acts[0].tolist()}
    assert {tuple(row) for row in first.validation[0].tolist()} <= held_out


def test_the_same_basis_without_a_training() -> None:
    acts = sparse_acts()
    documents = split(acts)
    prepared, alone = prepare(acts, documents, 64, 0), basis(acts, documents, 0)
    assert torch.equal(alone.measured.acts, prepared.measured.acts)
    for one, other in zip(alone.moments, prepared.moments, strict=True):
        assert torch.equal(one.covariance, other.covariance)


def test_layers_that_never_vary_are_named() -> None:
    acts = sparse_acts()
    for document in range(acts.n_documents):
        acts = with_value(acts, document, 0.1)
    with pytest.raises(UserError, match="activations of layer 3 are the same at every token"):
        prepare(acts, split(acts), 64, 0)


@pytest.mark.parametrize("role", ["training", "held_out"])
def test_what_is_no_number_is_named(role: str) -> None:
    acts = sparse_acts()
    documents = split(acts)
    document = int(getattr(documents, role)[3])
    moved = with_value(acts, document, float("nan"))
    with pytest.raises(UserError, match=f"document doc{document}, layer 3, is NaN or infinite"):
        prepare(moved, documents, 64, 0)


def test_fewer_tokens_than_a_batch() -> None:
    acts = sparse_acts(n_documents=4)
    with pytest.raises(UserError, match="--batch-size 64: the training documents have 29 tokens"):
        prepare(acts, split(acts, n_training=20), 64, 0)

import numpy as np
import pytest
import torch
from torch import nn

from sdlms.probes.members import Members
from sdlms.probes.stacked import (
    Dropout,
    linear,
    shared_hidden,
    torch_linear,
    unit_rows,
    xavier_linear,
)
from tests.probes.toy_lessons import leaves, toy_piece

LEFT = Members.grid(3, (0, 5), 2).subset(np.array([0, 2, 3, 8, 10]))
COLUMNS = [(4, 3), (9, 1), (2, 5)]


@pytest.mark.parametrize("dropout", [False, True])
def test_shared_hidden_and_its_gradient_are_those_of_a_loop(dropout: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(LEFT.layers), 9, 4, generator=generator)
    params = {
        "weight": torch.randn(5, 6, 4, generator=generator),
        "bias": torch.randn(5, 6, generator=generator),
    }
    scales = Dropout(LEFT, 1).scales("a", 6, 0.5, COLUMNS) if dropout else None
    stacked, looped = leaves(params), leaves(params)
    hidden = shared_hidden((stacked["weight"], stacked["bias"]), rows, LEFT, scales)
    expected = []
    for member in range(5):
        x = rows[LEFT.layers.index(LEFT.layer[member])]
        one = (x @ looped["weight"][member].T + looped["bias"][member]).relu().T
        expected.append(one if scales is None else one * scales[LEFT.seed[member]])
    assert torch.allclose(hidden, torch.stack(expected), atol=1e-6)
    direction = torch.randn(5, 6, 9, generator=generator)
    (hidden * direction).sum().backward()
    (torch.stack(expected) * direction).sum().backward()
    for name in params:
        assert torch.allclose(stacked[name].grad, looped[name].grad, atol=1e-5)


def test_linear_is_torchs_for_each_member() -> None:
    weight, bias, values = torch.randn(3, 2, 4), torch.randn(3, 2), torch.randn(3, 4, 5)
    for member, found in enumerate(linear(weight, bias, values)):
        expected = nn.functional.linear(values[member].T, weight[member], bias[member]).T
        assert torch.allclose(found, expected, atol=1e-6)


def test_unit_rows_are_torchs_layer_norm() -> None:
    piece = toy_piece()
    norm = nn.LayerNorm(piece.x.shape[-1])
    for layer, rows in enumerate(unit_rows(piece, [0, 1])):
        assert torch.allclose(rows, norm(piece.x[layer][piece.mask]), atol=1e-6)


def test_dropout_drops_its_rate_and_keeps_the_mean() -> None:
    scales = Dropout(LEFT, 0).scales("a", 200, 0.2, [(0, 50), (1, 50)])
    assert scales.shape == (2, 200, 100)
    assert set(scales.unique().tolist()) == {0.0, 1.25}
    assert float(scales.mean()) == pytest.approx(1, abs=0.01)
    assert bool((Dropout(LEFT, 0).scales("a", 9, 0.0, COLUMNS) == 1).all())


def test_a_documents_mask_knows_no_other_document_and_no_other_seed() -> None:
    whole = Dropout(LEFT, 3).scales("a", 6, 0.5, COLUMNS)
    other = Members.grid(1, (5,), 1)
    alone = Dropout(other, 3).scales("a", 6, 0.5, COLUMNS[1:])
    assert torch.equal(alone[0], whole[1, :, 3:])


def test_masks_differ_by_epoch_place_seed_and_document() -> None:
    def drawn(epoch: int, place: str, seed: int, document: int) -> tuple[float, ...]:
        dropout = Dropout(Members.grid(1, (seed,), 1), epoch)
        return tuple(dropout.scales(place, 64, 0.5, [(document, 1)]).flatten().tolist())

    keys = [(0, "a", 0, 0), (1, "a", 0, 0), (0, "b", 0, 0), (0, "a", 1, 0), (0, "a", 0, 1)]
    assert len({drawn(*key) for key in keys}) == len(keys)


def test_applied_dropout_is_values_times_scales() -> None:
    values = torch.randn(5, 6, 3)
    columns = [(1, 1), (2, 1), (3, 1)]
    dropout = Dropout(LEFT, 0)
    scales = dropout.scales("a", 6, 0.5, columns)
    expected = torch.stack([values[m] * scales[LEFT.seed[m]] for m in range(5)])
    assert torch.equal(dropout.apply(values, "a", 0.5, columns), expected)


def test_initial_weights_have_the_usual_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = xavier_linear(200, 300, generator)
    expected = nn.init.xavier_normal_(torch.empty(200, 300), gain=0.5, generator=generator)
    assert float(weight.std()) == pytest.approx(float(expected.std()), rel=0.02)
    assert not bias.any()
    weight, bias = torch_linear(200, 300, generator)
    assert float(weight.std()) == pytest.approx(
        float(nn.Linear(300, 200).weight.detach().std()), rel=0.02
    )
    assert float(bias.abs().max()) <= 300**-0.5

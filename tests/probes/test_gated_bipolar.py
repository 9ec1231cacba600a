import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdlms.probes.gated_bipolar import GatedBipolarNetwork
from sdlms.probes.stacked import Params
from tests.probes.toy_lessons import (
    Scales,
    assert_as_by_hand,
    random_params,
    standardised,
    toy_network,
)


def by_hand(own: Params, x: Tensor, scales: Scales) -> Tensor:
    hidden = (standardised(x) @ own["inner"].T + own["inner_bias"]).relu()
    hidden = hidden * scales("inner", 6, 0.1)
    hidden = hidden @ own["outer"].T + own["outer_bias"]
    gated = (hidden @ own["value"].T) * functional.softplus(hidden @ own["gate"].T)
    poles = torch.cat([gated.amax(dim=0), -gated.amin(dim=0)])
    return (poles @ own["top"].T + own["top_bias"])[0]


@pytest.mark.parametrize("train", [False, True])
def test_it_is_its_formula_document_by_document(train: bool) -> None:
    assert_as_by_hand(toy_network("gated_bipolar"), by_hand, train=train)


def test_the_penalty_is_its_formula_for_each_member() -> None:
    network = toy_network("gated_bipolar")
    params = random_params(network, 2)
    for found, value in zip(network.penalty(params), params["value"].tolist(), strict=True):
        products = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in value] for u in value]
        distance = sum((products[i][j] - (i == j)) ** 2 for i in range(3) for j in range(3))
        sparse = sum(abs(weight) for row in value for weight in row)
        assert float(found) == pytest.approx(1e-5 * sparse + 1e-4 * distance, rel=1e-5)


def test_orthonormal_rows_cost_only_their_size() -> None:
    network = toy_network("gated_bipolar")
    value = torch.eye(3, 6)[None]
    assert float(network.penalty({"value": value})) == pytest.approx(3e-5)


def test_usual_widths() -> None:
    params = GatedBipolarNetwork().initial(30, seed=0)
    assert {name: tuple(param.shape) for name, param in params.items()} == {
        "inner": (128, 30),
        "inner_bias": (128,),
        "outer": (128, 128),
        "outer_bias": (128,),
        "value": (64, 128),
        "gate": (64, 128),
        "top": (1, 128),
        "top_bias": (1,),
    }

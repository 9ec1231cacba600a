import pytest
import torch
from torch import Tensor

from sdlms.probes.members import Members
from sdlms.probes.multimax import MultiMaxNetwork
from sdlms.probes.stacked import Params
from tests.probes.toy_lessons import (
    Scales,
    assert_as_by_hand,
    random_params,
    standardised,
    toy_network,
    toy_piece,
)


def by_hand(own: Params, x: Tensor, scales: Scales) -> Tensor:
    hidden = (standardised(x) @ own["inner"].T + own["inner_bias"]).relu()
    hidden = hidden * scales("inner", 6, 0.1)
    hidden = hidden @ own["outer"].T + own["outer_bias"]
    heads = hidden @ own["heads"].T + own["heads_bias"]
    return (heads.amax(dim=0) @ own["top"].T + own["top_bias"])[0]


@pytest.mark.parametrize("train", [False, True])
def test_it_is_its_formula_document_by_document(train: bool) -> None:
    """Also with the gradient, which is computed from the winning tokens alone."""
    assert_as_by_hand(toy_network("multimax"), by_hand, train=train)


def test_a_token_that_wins_nowhere_changes_nothing() -> None:
    network, members = toy_network("multimax"), Members.grid(2, (0,), 1)
    params, piece = random_params(network, 2), toy_piece()
    with torch.no_grad():
        before = network.logits(params, piece, members, None)
        piece.x[:, ~piece.mask] = 100.0
        assert torch.equal(network.logits(params, piece, members, None), before)


def test_usual_widths() -> None:
    params = MultiMaxNetwork().initial(30, seed=0)
    shapes = {name: tuple(param.shape) for name, param in params.items() if "bias" not in name}
    assert shapes == {"inner": (128, 30), "outer": (128, 128), "heads": (10, 128), "top": (1, 10)}

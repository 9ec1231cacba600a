import pytest
import torch
from torch import Tensor

from sdlms.probes.attention import AttentionNetwork, AttentionProbe
from sdlms.probes.members import Members
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
    hidden = (standardised(x) @ own["scorer"].T + own["scorer_bias"]).relu()
    hidden = hidden * scales("scorer", 6, 0.2)
    scores = hidden @ own["score"][0]
    values = standardised((scores / 2).softmax(dim=0) @ x)[None]
    values = (values @ own["wide"].T + own["wide_bias"]).relu()
    values = values * scales("wide", 5, 0.2, by_token=False)
    values = (values @ own["narrow"].T + own["narrow_bias"]).relu()
    values = values * scales("narrow", 4, 0.2, by_token=False)
    return (values @ own["top"].T + own["top_bias"])[0, 0]


@pytest.mark.parametrize("train", [False, True])
def test_it_is_its_formula_document_by_document(train: bool) -> None:
    assert_as_by_hand(toy_network("attention"), by_hand, train=train)


def test_weights_are_a_distribution_over_mask_1_tokens() -> None:
    network, piece, members = toy_network("attention"), toy_piece(), Members.grid(2, (0,), 1)
    weights = network.attention(random_params(network, 2), piece, members, None)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 5))
    assert bool((weights[:, ~piece.mask] == 0).all())
    assert bool((weights[:, piece.mask] > 0).all())


def test_usual_widths_and_initial_parameters() -> None:
    params = AttentionNetwork().initial(300, seed=0)
    shapes = {name: tuple(param.shape) for name, param in params.items() if "bias" not in name}
    assert shapes == {
        "scorer": (128, 300),
        "score": (1, 128),
        "wide": (256, 300),
        "narrow": (128, 256),
        "top": (1, 128),
    }
    assert all(not param.any() for name, param in params.items() if "bias" in name)
    assert params["wide"].std() == pytest.approx(0.5 * (2 / 556) ** 0.5, rel=0.02)


def test_one_decisive_token_is_found() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 8, 5, generator=generator), torch.arange(60) % 2 == 0
    places = torch.randint(8, (60,), generator=generator)
    x[torch.arange(60), places, 0] += torch.where(y, 8.0, -8.0)
    mask = torch.ones(60, 8)
    config = toy_network("attention", max_epochs=20).settings
    found = AttentionProbe(config).fit(x, y, mask).predict(x, mask)
    assert ((found > 0.5) == y).float().mean() > 0.9

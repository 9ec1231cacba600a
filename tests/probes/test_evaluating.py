import math

import pytest
import torch

from sdlms.probes.evaluating import cross_entropy, logits_of
from sdlms.probes.members import Members
from sdlms.probes.pieces import Room
from tests.probes.toy_lessons import KINDS, random_params, toy_network, toy_piece


@pytest.mark.parametrize("kind", KINDS[1:])
def test_logits_do_not_depend_on_how_much_fits(kind: str) -> None:
    network, members, piece = toy_network(kind), Members.grid(2, (0,), 2), toy_piece()
    params = random_params(network, 4)
    small = Room(lambda _: None)
    small.most = 2
    whole = logits_of(network, params, members, piece, Room(lambda _: None))
    assert whole.shape == (4, 5)
    assert not whole.requires_grad
    assert torch.allclose(logits_of(network, params, members, piece, small), whole, atol=1e-6)


def test_cross_entropy_is_its_formula() -> None:
    logits, truth = torch.tensor([0.0, 2.0, -3.0]), torch.tensor([1.0, 0.0, 0.0])
    expected = [math.log(2), math.log1p(math.exp(2)), math.log1p(math.exp(-3))]
    assert cross_entropy(logits, truth).tolist() == pytest.approx(expected, rel=1e-6)

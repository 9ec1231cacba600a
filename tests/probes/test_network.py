import dataclasses

import pytest
import torch

from sdlms.probes.members import Members
from sdlms.probes.network import no_penalty
from tests.probes.toy_lessons import KINDS, N_UNITS, random_params, toy_network, toy_piece


@pytest.mark.parametrize("kind", KINDS)
def test_initial_parameters_depend_on_the_seed_alone(kind: str) -> None:
    network = toy_network(kind)
    one, again, other = (network.initial(N_UNITS, seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], again[name]) for name in one)
    weights = [name for name in one if "bias" not in name]
    assert not any(torch.equal(one[name], other[name]) for name in weights)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_padding_nor_neighbours_change_a_logit(kind: str) -> None:
    network, members = toy_network(kind), Members.grid(2, (0,), 1)
    params, few, many = random_params(network, 2), toy_piece(), toy_piece()
    many.x[:, ~many.mask] = 1e3
    assert torch.allclose(
        network.logits(params, few, members, None), network.logits(params, many, members, None)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_recorded_as_plain_numbers(kind: str) -> None:
    settings = dataclasses.asdict(toy_network(kind).settings)
    assert {type(value) for value in settings.values()} <= {int, float}
    assert {"learning_rate", "weight_decay", "max_epochs", "patience"} <= set(settings)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_sequence_kinds_are_trained_alike(kind: str) -> None:
    settings = type(toy_network(kind))().settings
    assert (settings.learning_rate, settings.weight_decay) == (5e-4, 1e-3)
    assert (settings.max_epochs, settings.patience, settings.batch_documents) == (20, 5, 32)


def test_no_penalty_is_zero_for_each_member() -> None:
    assert no_penalty({"a": torch.ones(3, 2)}).tolist() == [0, 0, 0]

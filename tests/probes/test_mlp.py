from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdlms.probes.batches import ActsBatches
from sdlms.probes.members import Members
from sdlms.probes.mlp import MlpNetwork, MlpProbe, MlpSettings
from sdlms.probes.stacked import Params
from tests.probes.toy_lessons import (
    N_UNITS,
    leaves,
    random_params,
    toy_acts,
    toy_network,
    toy_piece,
)


@pytest.mark.parametrize("tokens", [False, True])
def test_every_row_is_judged_as_by_torch(tokens: bool) -> None:
    network, members = toy_network("mlp"), Members.grid(2, (0,), 2)
    params, piece = random_params(network, 4), toy_piece(tokens)
    logits = network.logits(params, piece, members, None)
    for member, layer in enumerate(members.layer):
        rows = piece.x[layer] if piece.mask is None else piece.x[layer][piece.mask]
        model = nn.Sequential(nn.Linear(N_UNITS, 6), nn.ReLU(), nn.Linear(6, 1))
        own = {name: param[member] for name, param in params.items()}
        state = {"0.weight": own["weight"], "0.bias": own["bias"]}
        model.load_state_dict(state | {"2.weight": own["top"], "2.bias": own["top_bias"]})
        expected = model((rows - network.mean[layer, 0]) / network.std[layer, 0])[:, 0]
        assert torch.allclose(logits[member], expected, atol=1e-5)


def test_units_of_any_scale_count_alike() -> None:
    """Outlier units are hundreds of times larger than others."""
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, 0] > 0
    scale = torch.tensor([1.0, 1e4, 1e-3, 1.0])
    config = MlpSettings(hidden=8, max_epochs=5)
    plain = MlpProbe(config).fit(x, y).predict(x)
    scaled = MlpProbe(config).fit(x * scale + 7, y).predict(x * scale + 7)
    assert torch.allclose(plain, scaled, atol=5e-2)
    assert not torch.allclose(plain, torch.full_like(plain, 0.5), atol=0.1)


def test_the_scaling_is_that_of_the_mask_1_tokens_of_the_documents() -> None:
    acts, documents = toy_acts(), [[3, 0, 8], [8, 20, 30, 39]]
    trained = np.array([np.isin(np.arange(40), own) for own in documents])
    network = MlpNetwork.scaled_to(ActsBatches(acts), trained)
    realized = acts.realize()
    for layer, (seed, own) in product(range(2), enumerate([*documents, {0, 3, 8, 20, 30, 39}])):
        rows = torch.cat([realized.tensor[d, layer][realized.mask[d]] for d in own])
        last = seed == len(documents)
        mean = network.centre[layer] if last else network.mean[layer, seed]
        std = network.scale[layer] if last else network.std[layer, seed]
        assert torch.allclose(mean, rows.mean(dim=0), atol=1e-6)
        assert torch.allclose(std, rows.std(dim=0, correction=0), atol=1e-6)


def test_what_is_folded_is_what_each_seed_would_read_alone() -> None:
    """Logits and gradients, where the seeds' scalings differ by much."""
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(2, 2, N_UNITS, generator=generator) * 3
    std = torch.rand(2, 2, N_UNITS, generator=generator) * 5 + 0.1
    settings = MlpSettings(hidden=6)
    network = MlpNetwork(mean.mean(dim=1), std.amax(dim=1), mean, std, settings)
    members, piece = Members.grid(2, (3, 8), 2), toy_piece()
    params = leaves(random_params(network, len(members)))
    logits = network.logits(params, piece, members, None)
    logits.square().sum().backward()
    one = Members.grid(1, (0,), 1)
    for member, (layer, seed) in enumerate(zip(members.layer, members.seed, strict=True)):
        own = leaves({name: p[member : member + 1] for name, p in params.items()})
        alone = MlpNetwork.alone(mean[layer, seed, None], std[layer, seed, None], settings)
        layer_alone = replace(piece, x=piece.x[layer, None])
        expected = alone.logits(own, layer_alone, one, None)
        expected.square().sum().backward()
        assert torch.allclose(logits[member], expected[0], rtol=1e-4, atol=1e-4)
        for name, param in own.items():
            found = params[name].grad[member]
            assert torch.allclose(found, param.grad[0], rtol=1e-3, atol=1e-3), name


def test_initial_parameters_are_those_of_torch_in_distribution() -> None:
    network = MlpNetwork.alone(torch.zeros(1, 500), torch.ones(1, 500))
    params = network.initial(500, seed=1)
    assert params["weight"].shape == (128, 500)
    assert params["weight"].abs().max() <= 500**-0.5
    assert params["weight"].std() == pytest.approx((500 * 3) ** -0.5, rel=0.02)
    assert params["bias"].abs().max() > 0
    assert _equal(params, network.initial(500, seed=1))
    assert not _equal(params, network.initial(500, seed=2))


def test_a_members_tensors_hold_the_scaling_of_its_layer() -> None:
    network = toy_network("mlp")
    own = network.member_tensors(network.initial(N_UNITS, 0), 1, 3)
    assert own["mean"].tolist() == [network.mean[1, 3].tolist()]
    assert own["std"].tolist() == [network.std[1, 3].tolist()]


def _equal(one: Params, other: Params) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = [(one[name], other[name]) for name in one]
    return all(torch.equal(a, b) for a, b in pairs)

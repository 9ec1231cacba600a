import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdlms.probes.batches import ActsBatches
from sdlms.probes.members import Members
from sdlms.probes.mlp import MlpNetwork, MlpProbe, MlpSettings
from sdlms.probes.stacked import Params
from tests.probes.toy_lessons import N_UNITS, random_params, toy_acts, toy_network, toy_piece


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
        expected = model((rows - network.mean[layer]) / network.std[layer])[:, 0]
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
    acts, documents = toy_acts(), np.array([3, 0, 8])
    network = MlpNetwork.scaled_to(ActsBatches(acts), documents)
    realized = acts.realize()
    for layer in range(2):
        rows = torch.cat([realized.tensor[d, layer][realized.mask[d]] for d in documents])
        assert torch.allclose(network.mean[layer], rows.mean(dim=0), atol=1e-6)
        assert torch.allclose(network.std[layer], rows.std(dim=0, correction=0), atol=1e-6)


def test_initial_parameters_are_those_of_torch_in_distribution() -> None:
    network = MlpNetwork(torch.zeros(1, 500), torch.ones(1, 500))
    params = network.initial(500, seed=1)
    assert params["weight"].shape == (128, 500)
    assert params["weight"].abs().max() <= 500**-0.5
    assert params["weight"].std() == pytest.approx((500 * 3) ** -0.5, rel=0.02)
    assert params["bias"].abs().max() > 0
    assert _equal(params, network.initial(500, seed=1))
    assert not _equal(params, network.initial(500, seed=2))


def test_a_members_tensors_hold_the_scaling_of_its_layer() -> None:
    network = toy_network("mlp")
    own = network.member_tensors(network.initial(N_UNITS, 0), 1)
    assert own["mean"].tolist() == [network.mean[1].tolist()]
    assert own["std"].tolist() == [network.std[1].tolist()]


def _equal(one: Params, other: Params) -> bool:
    pairs: list[tuple[Tensor, Tensor]] = [(one[name], other[name]) for name in one]
    return all(torch.equal(a, b) for a, b in pairs)

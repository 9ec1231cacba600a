"""What is learned are the sample's own figures."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdlms.models.architectures import n_layers
from sdlms.models.gated import How, gated
from sdlms.models.gating.calibration import learn, quantiles_of, summed_scores, thinned
from sdlms.models.gating.choosers import Facts, chooser_of
from sdlms.models.gating.layouts import mlps_of
from sdlms.models.gating.learned import QUANTILES, SHARES
from sdlms.models.gating.scoring import output_norms
from sdlms.models.recording import recording
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, random_model


def neurons_of(name: str, layer: int) -> tuple[Tensor, Tensor]:
    """Neurons `[token, neuron]` of the sample, and their norms."""
    model = random_model(name)
    with recording(model, [layer], ["mlp_act"]) as recorded:
        acts = recorded.run(INPUT_IDS)["mlp_act", layer].flatten(0, 1)
    down = mlps_of(model, (layer,))[0].down
    return acts, output_norms(down.weight, 1 if down.rows == "outputs" else 0)


@EVERY_CAUSAL_CASE
def test_scores_are_those_of_the_neurons_of_the_sample(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    n_hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    learned = learn(model, INPUT_IDS)
    assert n_hooks == sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()
    )
    assert sorted(learned.layers) == list(range(n_layers(model.config)))
    acts, norms = neurons_of(name, 1)
    found, scores = learned.layers[1], (acts.abs() * norms).numpy()
    np.testing.assert_allclose(found.mean_scores, scores.mean(0), rtol=1e-5)
    expected = np.quantile(scores.astype(np.float64), QUANTILES.numpy())
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4, atol=1e-6)
    inputs = np.quantile(acts.abs().numpy().astype(np.float64), QUANTILES.numpy())
    np.testing.assert_allclose(found.inputs[-1], inputs, rtol=1e-4, atol=1e-6)
    errors, share = found.allocation.errors, found.allocation.share
    assert len(found.inputs) == found.allocation.keeps.shape[1]
    assert errors[-1] == 0
    assert share[-1] == 1
    assert float(share[0]) == pytest.approx(0.05)


@pytest.mark.parametrize("rule", ["threshold", "top-p"])
@pytest.mark.parametrize("keep", [0.01, 0.1, 0.3, 0.7])
def test_on_the_sample_itself_the_kept_fraction_is_keep(rule: str, keep: float) -> None:
    """In each layer on dense neurons: gated layers before it would change them."""
    n_neurons = 2000
    acts = torch.randn(64, n_neurons, generator=torch.Generator().manual_seed(0))
    norms = torch.rand(n_neurons, generator=torch.Generator().manual_seed(1)) + 0.5
    model = random_model("phi")
    learned = learn(model, INPUT_IDS, layers=(0,)).layers[0]
    mean, held = summed_scores(acts, norms)
    own = {"scores": quantiles_of(acts.abs() * norms), "held": held, "mean_scores": mean}
    learned = type(learned)(**{**vars(learned), **own})
    share = float(np.interp(keep, held.numpy(), SHARES.numpy()))
    facts = Facts(layer=0, norms=norms, learned=learned, seed=0)
    mask = chooser_of(rule, facts, keep, share).mask(acts, None)
    assert float(mask.float().mean()) == pytest.approx(keep, rel=0.03)


def test_held_counts_are_those_of_a_loop() -> None:
    acts = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    mean, held = summed_scores(acts, torch.ones(30))
    np.testing.assert_allclose(mean, acts.abs().mean(0), rtol=1e-6)
    for place in range(0, len(SHARES), 40):
        counts = []
        for row in acts.abs().double().numpy():
            ranked = np.cumsum(np.sort(row)[::-1])
            goal = float(SHARES[place]) * ranked[-1]
            counts.append(1 + int((ranked[:-1] < goal).sum()))
        assert float(held[place]) == pytest.approx(np.mean(counts) / 30)
    assert summed_scores(torch.zeros(2, 4), torch.ones(4))[1].unique().tolist() == [0.25]


def test_many_tokens_are_thinned_out_evenly() -> None:
    acts = torch.arange(10.0)[:, None].expand(10, 2**20)
    assert thinned(acts)[:, 0].tolist() == [0, 3, 6, 9]
    assert thinned(acts[:4]).shape[0] == 4


def test_the_order_of_a_greedy_path_pays_more_where_it_costs_more() -> None:
    """`input` at its own keep: what is kept is near what was asked for, and all layers count."""
    model = random_model("llama", AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    how = How(execution="masked")
    for keep in (0.3, 0.6):
        with gated(model, "input", keep, learned=learned, how=how) as gates, torch.no_grad():
            model(INPUT_IDS)
            assert gates.kept_fraction() == pytest.approx(keep, abs=0.05)


def test_wrong_use_is_an_error_of_ours() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    with pytest.raises(ValueError, match="no tokens"):
        learn(model, INPUT_IDS[:0])
    with pytest.raises(ValueError, match="of a layer of 24 neurons"):
        learn(model, INPUT_IDS, blocks={0: np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match="eval"):
        learn(model.train(), INPUT_IDS)

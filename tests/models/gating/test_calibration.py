"""What is learned are the sample's own figures."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.models.architectures import n_layers
from sdlms.models.gated import How, gated
from sdlms.models.gating import calibration
from sdlms.models.gating.calibration import learn, quantiles_of, summed_scores
from sdlms.models.gating.choosers import Facts, chooser_of
from sdlms.models.gating.layouts import mlps_of
from sdlms.models.gating.learned import QUANTILES, SHARES, Learned
from sdlms.models.gating.rules import RULES
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


def means(acts: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Of the scores over tokens, and of the held counts as fractions of the neurons."""
    sums, counts = summed_scores(acts, norms)
    return (sums / len(acts)).float(), counts / acts.numel()


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
    mean, held = means(acts, norms)
    own = {"scores": quantiles_of(acts.abs() * norms), "held": held, "mean_scores": mean}
    learned = type(learned)(**{**vars(learned), **own})
    share = float(np.interp(keep, held.numpy(), SHARES.numpy()))
    facts = Facts(layer=0, norms=norms, learned=learned, seed=0)
    mask = chooser_of(rule, facts, keep, share).mask(acts, None)
    assert float(mask.float().mean()) == pytest.approx(keep, rel=0.03)


def test_held_counts_are_those_of_a_loop() -> None:
    acts = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    mean, held = means(acts, torch.ones(30))
    np.testing.assert_allclose(mean, acts.abs().mean(0), rtol=1e-6)
    for place in range(0, len(SHARES), 40):
        counts = []
        for row in acts.abs().double().numpy():
            ranked = np.cumsum(np.sort(row)[::-1])
            goal = float(SHARES[place]) * ranked[-1]
            counts.append(1 + int((ranked[:-1] < goal).sum()))
        assert float(held[place]) == pytest.approx(np.mean(counts) / 30)
    assert means(torch.zeros(2, 4), torch.ones(4))[1].unique().tolist() == [0.25]
    assert means(acts[:1], torch.zeros(30))[1].unique().tolist() == pytest.approx([1 / 30])


def same(found: Learned, expected: Learned, rtol: float) -> None:
    for layer, wanted in expected.layers.items():
        for name in ("scores", "held", "mean_scores", "inputs"):
            got, want = (getattr(each, name) for each in (found.layers[layer], wanted))
            torch.testing.assert_close(got, want, rtol=rtol, atol=rtol)
        for got, want in zip(found.layers[layer].allocated(), wanted.allocated(), strict=True):
            torch.testing.assert_close(got, want, rtol=100 * rtol, atol=100 * rtol)


SAMPLE = torch.randint(1, 50, (24, 8), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("most", [2**22, 2000])
@EVERY_CAUSAL_CASE
def test_batches_change_nothing(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """192 tokens: of 128 tokens at most the allocation is made; of few values the quantiles."""
    monkeypatch.setattr(calibration, "MAX_SORTED", most)
    model = random_model(name, AutoModelForCausalLM)
    whole = learn(model, SAMPLE, budget=SAMPLE.numel())
    for budget in (1, 50, 100):
        same(learn(model, SAMPLE, budget=budget), whole, 1e-5)


def test_a_batch_that_does_not_fit_comes_again_in_halves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It fails in the last block: what the first has seen of it must not count twice."""
    model = random_model("llama", AutoModelForCausalLM)
    sizes = []

    def fail(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.shape[:-1].numel())
        if len(sizes) in (1, 3):  # the first batch, and one after a batch that counts
            raise torch.OutOfMemoryError

    with mlps_of(model, None)[-1].down.module.register_forward_hook(fail):
        found = learn(model, SAMPLE, budget=128)
    assert sizes == [128, 64, 64, 32, 32, 32, 32]
    same(found, learn(model, SAMPLE), 1e-5)
    assert "batches of the calibration sample have 32 tokens" in caplog.text


def test_a_window_that_does_not_fit_is_refused() -> None:
    model = random_model("llama", AutoModelForCausalLM)

    def fail(*call: object) -> None:
        raise MemoryError

    with (
        model.base_model.register_forward_pre_hook(fail),
        pytest.raises(UserError, match="out of memory on a single document of 8 tokens"),
    ):
        learn(model, SAMPLE)
    assert learn(model, SAMPLE).layers


def test_little_is_held_of_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one value for each token of the sample, whatever the number of batches."""
    monkeypatch.setattr(calibration, "MAX_SORTED", SAMPLE.numel())
    model, held = random_model("llama", AutoModelForCausalLM), []

    def note(part: Tensor, *rest: object) -> Tensor:
        held.append(part)
        return quantiles_of(part)

    monkeypatch.setattr(calibration, "quantiles_of", note)
    learn(model, SAMPLE, layers=(1,), rules=("threshold",), budget=16)
    assert len(held) == 3
    assert all(part.numel() <= SAMPLE.numel() for part in held)


@pytest.mark.gpu
def test_a_gpu_learns_the_same() -> None:
    """There the device itself sorts."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = random_model("llama", AutoModelForCausalLM)
    expected = learn(model, SAMPLE)
    for budget in (64, 512):
        same(learn(model.cuda(), SAMPLE, budget=budget), expected, 1e-4)


@pytest.mark.parametrize("shape", [(3, 500), (2000, 3)])
def test_quantiles_are_those_of_torchs_sort(shape: tuple[int, int]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0)).abs()
    expected = torch.quantile(scores.flatten().double(), QUANTILES)
    torch.testing.assert_close(quantiles_of(scores).double(), expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(quantiles_of(scores.t()), quantiles_of(scores))


def test_the_order_of_a_greedy_path_pays_more_where_it_costs_more() -> None:
    """`input` at its own keep: what is kept is near what was asked for, and all layers count."""
    model = random_model("llama", AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    how = How(execution="masked")
    for keep in (0.3, 0.6):
        with gated(model, "input", keep, learned=learned, how=how) as gates, torch.no_grad():
            model(INPUT_IDS)
            assert gates.kept_fraction() == pytest.approx(keep, abs=0.05)


def test_weights_are_dealt_for_the_rule_that_reads_it_alone() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    whole, without = learn(model, INPUT_IDS), learn(model, INPUT_IDS, rules=("top-p", "static"))
    for layer, found in without.layers.items():
        assert found.allocation is None and whole.layers[layer].allocation is not None
        for name in ("scores", "held", "mean_scores"):
            assert torch.equal(getattr(found, name), getattr(whole.layers[layer], name))
    for rule in RULES:
        learned = learn(model, INPUT_IDS, layers=(1,), rules=(rule,))
        assert (learned.layers[1].allocation is not None) == (rule == "input")


def test_wrong_use_is_an_error_of_ours() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    with pytest.raises(ValueError, match="no tokens"):
        learn(model, INPUT_IDS[:0])
    with pytest.raises(ValueError, match="of a layer of 24 neurons"):
        learn(model, INPUT_IDS, blocks={0: np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match="eval"):
        learn(model.train(), INPUT_IDS)

"""The fast product says what float64 says, to 1e-4 of every probability."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import PreTrainedModel

from sdlms.lens.fast_unembedding import FastUnembedding
from sdlms.lens.measuring import Lens
from sdlms.lens.residuals import residuals
from sdlms.lens.rows import LensRows
from sdlms.lens.states import states_of
from sdlms.models.architectures import n_layers
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.unembedding import final_norm_of, unembedding_of
from tests.lens.heads import brute_force, head_model, ranks_of, related_states

D_MODEL, D_VOCAB = 64, 5000
PROBABILITY = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def assert_as_brute_force(model: PreTrainedModel, states: torch.Tensor) -> LensRows:
    """All of a lens, the next token probable at half of the tokens."""
    expected = brute_force(model, states)
    best = expected.probabilities[:, -1].argmax(-1)
    next_ids = torch.where(torch.arange(len(states)) % 2 == 0, best, 7)
    rows = Lens(model, 10, "bfloat16").measure(states, next_ids, [3])
    top = expected.probabilities.topk(10)
    assert_allclose(rows.top_probabilities, top.values, rtol=0, atol=PROBABILITY)
    assert_array_equal(rows.top_ids[..., 0], top.indices[..., 0])
    assert_allclose(rows.entropy_nats, expected.entropy_nats, atol=3e-3)
    assert_allclose(rows.log_normalizer, expected.log_normalizer, rtol=1e-6, atol=2e-3)
    assert_allclose(rows.kl_to_final_nats, expected.kl_to_final_nats, atol=1e-2)
    own = expected.logs.gather(-1, next_ids[:, None, None].expand(-1, states.shape[1], 1))[..., 0]
    assert_allclose(rows.next_log_probability, own, rtol=1e-5, atol=2e-3)
    assert_allclose(rows.pin_log_probability[..., 0], expected.logs[..., 3], rtol=1e-5, atol=2e-3)
    ranks = ranks_of(expected.logs, next_ids).numpy()
    among = ranks <= 20
    assert among.sum() >= len(states) / 2
    assert_array_equal(rows.next_rank[among], ranks[among])
    assert_allclose(rows.next_rank, ranks, rtol=0.01, atol=D_VOCAB / 100)
    return rows


@pytest.mark.parametrize("scale", [0.1, 1, 2, 3, 4, 6, 10, 30])
def test_flat_and_peaked_distributions(scale: float) -> None:
    model = head_model("gpt2", D_MODEL, D_VOCAB, scale)
    rows = assert_as_brute_force(model, related_states(40, 4, D_MODEL))
    if scale == 30:
        assert rows.top_probabilities[..., 0].mean() > 0.85


@pytest.mark.parametrize("scale", [3, 10])
def test_an_offset_that_all_logits_share(scale: float) -> None:
    model = head_model("gpt2", D_MODEL, D_VOCAB, scale)
    unembedding_of(model).weight.data += 100 / D_MODEL
    norm = final_norm_of(model)
    assert norm is not None
    norm.bias.data += 1.0
    rows = assert_as_brute_force(model, related_states(30, 3, D_MODEL))
    assert rows.log_normalizer.min() > 60


@pytest.mark.parametrize("scale", [1, 4])
def test_a_bias(scale: float) -> None:
    assert_as_brute_force(
        head_model("phi", D_MODEL, D_VOCAB, scale), related_states(30, 3, D_MODEL)
    )


def test_a_few_large_inputs() -> None:
    model = head_model("gpt2", D_MODEL, D_VOCAB, 1)
    norm = final_norm_of(model)
    assert norm is not None
    norm.weight.data[:3] *= 20
    assert_as_brute_force(model, related_states(30, 3, D_MODEL))


@pytest.mark.parametrize("scale", [2, 4])
def test_many_tokens_that_training_never_saw(scale: float) -> None:
    """The same weights thousands of times: the one case in which more than 1e-4 was seen."""
    model = head_model("gpt2", D_MODEL, D_VOCAB, scale)
    weight = unembedding_of(model).weight.data
    weight[1000:] = weight[1000] + 1e-4 * torch.randn(4000, D_MODEL)
    states = related_states(100, 4, D_MODEL)
    expected = brute_force(model, states).probabilities.topk(10).values
    rows = Lens(model, 10, "bfloat16").measure(states, torch.full((100,), -1))
    error = np.abs(rows.top_probabilities - expected.numpy()).max(-1)
    assert error.max() < 10 * PROBABILITY
    assert (error > PROBABILITY).mean() < 0.01


def test_a_trained_model() -> None:
    source = find_model("sdlms-small", None)
    model = load_causal_model(source, torch.float32, torch.device("cpu"))
    layers = range(n_layers(model.config))
    ids = torch.randint(1, 1000, (1, 200), generator=torch.Generator().manual_seed(0))
    with residuals(model, states_of(len(layers), layers)) as stream:
        resid = stream.run(ids)[0]
    unknown = torch.full((200,), -1)
    exact, fast = (
        Lens(model, 10, name).measure(resid, unknown) for name in ("float32", "bfloat16")
    )
    assert exact.top_probabilities[..., 0].mean() > 0.1
    assert_allclose(fast.top_probabilities, exact.top_probabilities, rtol=0, atol=PROBABILITY)
    assert (fast.top_ids[..., 0] == exact.top_ids[..., 0]).mean() > 0.999
    assert_allclose(fast.entropy_nats, exact.entropy_nats, atol=3e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_give_their_float32_product(dtype: torch.dtype) -> None:
    model = head_model("gpt2", D_MODEL, D_VOCAB, 4).to(dtype)
    assert_as_brute_force(model, related_states(20, 3, D_MODEL))


def test_ranks_count_every_token_once() -> None:
    """Pins on all of a small vocabulary: exact among candidates, a permutation but for ties."""
    model, states = head_model("gpt2", 16, 200, 3), related_states(10, 3, 16)
    pins = list(range(200))
    rows = Lens(model, 5, "bfloat16").measure(states, torch.full((10,), -1), pins)
    logs = brute_force(model, states).logs
    expected = torch.stack([ranks_of(logs, torch.full((10,), pin)) for pin in pins], -1).numpy()
    first = expected <= 30
    assert_array_equal(rows.pin_rank[first], expected[first])
    assert np.abs(rows.pin_rank - expected).max() <= 6
    assert_array_equal(rows.pin_rank.min(-1), 1)


def test_tied_and_untied_weights_are_left_alone() -> None:
    model = head_model("gpt2", D_MODEL, D_VOCAB)
    weight = unembedding_of(model).weight
    before = weight.clone()
    FastUnembedding(model).measure(
        torch.randn(2, 2, D_MODEL), torch.zeros(2, 1, dtype=torch.long), 3
    )
    assert torch.equal(weight, before)

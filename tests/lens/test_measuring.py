"""A lens says what a softmax over all logits says."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.lens.measuring import Lens
from sdlms.lens.residuals import residuals
from sdlms.lens.rows import LensRows
from sdlms.lens.states import states_of
from sdlms.lens.unembedding import UnembedDtype
from sdlms.models.architectures import n_layers
from sdlms.models.unembedding import logits_of
from tests.lens.heads import brute_force, head_model, ranks_of, related_states
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, random_model

BOTH = pytest.mark.parametrize("unembed", ["float32", "bfloat16"])
NEXT = torch.cat([INPUT_IDS[0, 1:], torch.tensor([-1])])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def assert_close(found: LensRows, expected: LensRows, tolerance: float) -> None:
    for name, values in found._asdict().items():
        other = getattr(expected, name)
        assert_allclose(values, other, rtol=tolerance, atol=tolerance, err_msg=name)


@EVERY_CAUSAL_CASE
@torch.no_grad()
def test_every_architectures_lens_is_a_softmax_of_its_logits(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    layers = range(n_layers(model.config))
    with residuals(model, states_of(len(layers), layers, with_mid="attention")) as stream:
        resid = stream.run(INPUT_IDS)[0]
    rows = Lens(model, 50, chunk_rows=10).measure(resid, NEXT, [7, 3])
    logits = logits_of(model, resid).double()
    logs = logits.log_softmax(-1)
    order = logs.sort(-1, descending=True)
    tight = {"rtol": 1e-5, "atol": 1e-5}
    assert_allclose(rows.top_probabilities, order.values.exp(), **tight)
    assert_allclose(rows.entropy_nats, -(logs.exp() * logs).sum(-1), **tight)
    assert_allclose(rows.log_normalizer, logits.logsumexp(-1), **tight)
    assert_allclose(
        rows.kl_to_final_nats, (logs[:, -1:].exp() * (logs[:, -1:] - logs)).sum(-1), **tight
    )
    assert_allclose(rows.pin_log_probability, logs[..., [7, 3]], **tight)
    own = model(INPUT_IDS[:1]).logits[0]
    assert_allclose(
        rows.next_log_probability[:-1, -1],
        own.log_softmax(-1)[:-1].gather(1, NEXT[:-1, None])[:, 0],
        **tight,
    )
    assert_array_equal(rows.top_ids[:, -1, 0], own.argmax(-1))
    assert_array_equal(rows.next_rank[:-1], ranks_of(logs[:-1], NEXT[:-1]))
    assert_array_equal(rows.pin_rank[..., 1], ranks_of(logs, torch.full((9,), 3)))


@BOTH
@pytest.mark.parametrize("chunk_rows", [1, 12, 1000])
def test_chunks_do_not_matter(unembed: UnembedDtype, chunk_rows: int) -> None:
    model, states = head_model("gpt2", 16, 700, 3), related_states(11, 4, 16)
    next_ids = torch.randint(0, 700, (11,))
    whole = Lens(model, 5, unembed).measure(states, next_ids, [1, 2])
    cut = Lens(model, 5, unembed, chunk_rows).measure(states, next_ids, [1, 2])
    assert_close(cut, whole, 1e-5 if unembed == "float32" else 2e-4)
    assert_array_equal(cut.top_ids, whole.top_ids)
    assert_array_equal(cut.next_rank, whole.next_rank)


@BOTH
def test_the_same_input_gives_the_same_bytes(unembed: UnembedDtype) -> None:
    model, states = head_model("phi", 16, 700, 3), related_states(9, 3, 16)
    one, other = (Lens(model, 5, unembed).measure(states, NEXT, [4]) for _ in range(2))
    for values, again in zip(one, other, strict=True):
        assert values.tobytes() == again.tobytes()


@BOTH
def test_what_follows_may_be_unknown(unembed: UnembedDtype) -> None:
    model, states = head_model("gpt2", 16, 700), related_states(9, 3, 16)
    rows = Lens(model, 3, unembed).measure(states, NEXT)
    assert np.isnan(rows.next_log_probability[-1]).all()
    assert (rows.next_rank[-1] == 0).all()
    assert np.isfinite(rows.next_log_probability[:-1]).all()
    assert (rows.next_rank[:-1] >= 1).all()
    assert rows.pin_rank.shape == rows.pin_log_probability.shape == (9, 3, 0)


@BOTH
def test_the_final_state_is_no_distance_from_itself(unembed: UnembedDtype) -> None:
    model, states = head_model("gpt2", 16, 700, 5), related_states(9, 3, 16)
    states[:, 1] = states[:, 2]
    kl = Lens(model, 3, unembed).measure(states, NEXT).kl_to_final_nats
    assert (kl[:, 2] == 0).all()
    assert_allclose(kl[:, 1], 0, atol=1e-5 if unembed == "float32" else 1e-4)
    assert (kl[:, 0] > 0.01).all()


@BOTH
def test_a_state_that_is_not_a_number_spoils_only_itself(unembed: UnembedDtype) -> None:
    model, states = head_model("gpt2", 16, 700), related_states(9, 3, 16)
    clean = Lens(model, 3, unembed).measure(states, NEXT, [2])
    states[4, 1, 3] = torch.nan
    states[5, 2] = torch.nan  # a final state, to which the others have no distance either
    rows = Lens(model, 3, unembed).measure(states, NEXT, [2])
    for token, state in ((4, 1), (5, 2)):
        assert np.isnan(rows.top_probabilities[token, state]).all()
        assert np.isnan(rows.entropy_nats[token, state])
        assert np.isnan(rows.kl_to_final_nats[token, state])
        assert rows.next_rank[token, state] == rows.pin_rank[token, state, 0] == 0
    assert ((rows.top_ids >= 0) & (rows.top_ids < 700)).all()
    assert np.isnan(rows.kl_to_final_nats[5]).all()
    others = np.ones((9, 3), bool)
    others[4, 1] = others[5, 2] = False
    assert_allclose(rows.entropy_nats[others], clean.entropy_nats[others], rtol=1e-5)
    assert_array_equal(rows.next_rank[others], clean.next_rank[others])


@BOTH
@pytest.mark.parametrize("d_vocab", [1, 5, 31, 33, 70])
def test_tiny_vocabularies(unembed: UnembedDtype, d_vocab: int) -> None:
    model, states = head_model("gpt2", 16, d_vocab, 2), related_states(6, 3, 16)
    next_ids = torch.arange(6) % d_vocab
    rows = Lens(model, d_vocab, unembed).measure(states, next_ids)
    expected = brute_force(model, states)
    wanted = expected.probabilities.sort(-1, descending=True)
    assert_allclose(rows.top_probabilities, wanted.values, atol=1e-4)
    assert_allclose(rows.top_probabilities.sum(-1), 1, atol=1e-4)
    assert_array_equal(
        np.sort(rows.top_ids, axis=-1), np.broadcast_to(np.arange(d_vocab), (6, 3, d_vocab))
    )
    assert_array_equal(rows.next_rank, ranks_of(expected.logs, next_ids))


@BOTH
def test_stored_states_of_half_precision_are_taken(unembed: UnembedDtype) -> None:
    model, states = head_model("gpt2", 16, 700), related_states(9, 3, 16).half()
    rows = Lens(model, 3, unembed).measure(states, NEXT)
    assert_close(rows, Lens(model, 3, unembed).measure(states.float(), NEXT), 1e-7)


@BOTH
def test_no_tokens_give_no_rows(unembed: UnembedDtype) -> None:
    model = head_model("gpt2", 16, 700)
    rows = Lens(model, 3, unembed).measure(torch.empty(0, 3, 16), NEXT[:0], [1])
    assert rows.top_ids.shape == (0, 3, 3)
    assert rows.pin_rank.shape == (0, 3, 1)


def test_what_is_no_token_is_refused() -> None:
    model, states = head_model("gpt2", 16, 50), torch.zeros(9, 2, 16)
    for n_top in (0, 51):
        with pytest.raises(ValueError, match=f"n_top is {n_top}, of a vocabulary of 50"):
            Lens(model, n_top)
    lens = Lens(model, 3)
    for next_ids, pins, message in (
        (NEXT[:3], [], "9 tokens, but next_ids is \\[3\\]"),
        (torch.full((9,), 50), [], "next_ids holds 50"),
        (torch.full((9,), -2), [], "next_ids holds -2"),
        (NEXT, [1, -1], "pins holds -1"),
        (NEXT, [50], "pins holds 50"),
    ):
        with pytest.raises(ValueError, match=message):
            lens.measure(states, next_ids, pins)


def test_encoders_are_refused() -> None:
    with pytest.raises(UserError, match="is an encoder"):
        Lens(random_model("bert", AutoModelForCausalLM))

"""The attention of the last token: a row of the full matrix, made alone."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models import attention_rows
from sdlms.models.attention_rows import AttentionReading
from tests.models.tiny_models import EVERY_CAUSAL_CASE, INPUT_IDS, config_of, random_model

IDS = INPUT_IDS[0].tolist()


def attention_row(model: PreTrainedModel, ids: list[int]) -> NDArray[np.float32]:
    return AttentionReading(model, ids).row()


def implementations(model: PreTrainedModel) -> list[str]:
    return [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]


def hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@torch.no_grad()
def full_rows(name: str, ids: list[int]) -> NDArray[np.float32]:
    model = random_model(name, AutoModelForCausalLM)
    model.set_attn_implementation("eager")
    attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    return np.stack([weights[0, :, -1].numpy() for weights in attentions])


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("n_tokens", [1, 2, 9])
def test_is_the_last_row_of_full_eager_attention(name: str, n_tokens: int) -> None:
    model = random_model(name, AutoModelForCausalLM)
    before = implementations(model)
    row = attention_row(model, IDS[:n_tokens])
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, full_rows(name, IDS[:n_tokens]), rtol=0, atol=2e-6)
    np.testing.assert_allclose(row.sum(axis=-1), 1, rtol=0, atol=1e-5)
    assert implementations(model) == before
    assert hooks(model) == 0
    # A second time they are put on again.
    np.testing.assert_array_equal(attention_row(model, IDS[:n_tokens]), row)


def test_a_long_prefix_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_rows, "PIECE_TOKENS", 3)
    for name in ("gemma2", "gpt2"):
        row = attention_row(random_model(name, AutoModelForCausalLM), IDS)
        np.testing.assert_allclose(row, full_rows(name, IDS), rtol=0, atol=2e-6)


def test_no_call_reads_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_rows, "PIECE_TOKENS", 3)
    model = random_model("gpt2", AutoModelForCausalLM)
    n_forwards = 0

    def count(*_: object) -> None:
        nonlocal n_forwards
        n_forwards += 1

    whole = attention_row(model, IDS)
    handle = model.register_forward_hook(count)
    reading = AttentionReading(model, IDS)
    n_pieces = reading.n_pieces
    assert n_pieces == -(-(len(IDS) - 1) // 3) > 1
    for n_read in range(n_pieces):
        assert (reading.n_pieces, n_forwards) == (n_pieces - n_read, n_read)
        reading.read_piece()
    np.testing.assert_array_equal(reading.row(), whole)
    handle.remove()
    assert n_forwards == n_pieces + 1
    assert AttentionReading(model, IDS[:1]).n_pieces == 0


def test_keys_outside_of_the_window_have_no_weight() -> None:
    model = random_model("gemma3_text", AutoModelForCausalLM)
    window = config_of("gemma3_text").sliding_window
    sliding, full, _ = attention_row(model, IDS)
    assert not sliding[:, :-window].any()
    assert sliding[:, -window:].all()
    assert full.all()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_attention_is_restored_after_an_error(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    before = implementations(model)
    assert "sdpa" in before
    with pytest.raises(IndexError):
        attention_row(model, [*IDS, 10_000])
    assert implementations(model) == before
    assert hooks(model) == 0


def test_hooks_of_others_stay() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    read: list[int] = []
    handle = model.register_forward_hook(lambda module, args, output: read.append(1))
    attention_row(model, IDS)
    assert (hooks(model), len(read)) == (1, 2)
    handle.remove()


def test_refuses_what_has_no_row() -> None:
    with pytest.raises(UserError, match="encoder"):
        attention_row(random_model("bert"), IDS)
    with pytest.raises(ValueError, match="no token"):
        attention_row(random_model("gpt2", AutoModelForCausalLM), [])
    with pytest.raises(ValueError, match="training mode"):
        attention_row(random_model("gpt2", AutoModelForCausalLM).train(), IDS)

"""Compact rules read the kept neurons only, of all matrices."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from sdlms.models.gated import How, gated, learn
from sdlms.models.gating.compact_family import prompt_scores
from sdlms.models.gating.rules import n_kept
from tests.models.tiny_models import INPUT_IDS, random_model


@torch.no_grad()
def decode(model: PreTrainedModel, n_rows: int = 1) -> torch.Tensor:
    output = model(INPUT_IDS[:n_rows, :4], use_cache=True)
    return model(INPUT_IDS[:n_rows, 4:5], past_key_values=output.past_key_values).logits


@pytest.mark.parametrize("execution", ["auto", "sparse"])
@pytest.mark.parametrize("rule", ["static", "sequence"])
@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "llama", "opt"])
def test_neurons_that_are_not_kept_are_not_read(name: str, rule: str, execution: str) -> None:
    """They are NaN here after the prompt: a mask would pass them on."""
    model = random_model(name, AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    how = How(execution=execution)
    with gated(model, rule, 0.3, learned=learned, how=how) as gates, torch.no_grad():
        expected = decode(model)
        output = model(INPUT_IDS[:1, :4], use_cache=True)
        spared = []
        for layer in gates._mlps:
            assert layer._n == n_kept(0.3, layer.mlp.down.n_inputs)
            for rows in layer._rows:
                spared.append((rows.rows, layer._n, rows.rows[layer._n :].clone()))
                rows.rows[layer._n :] = torch.nan
        ids = INPUT_IDS[:1, 4:5]
        found = model(ids, past_key_values=output.past_key_values).logits
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        for rows, n, values in spared:
            rows[n:] = values


def test_a_new_prompt_is_dense_and_chooses_anew() -> None:
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    with torch.no_grad():
        dense = model(INPUT_IDS[1:2]).logits
        with gated(model, "sequence", 0.3) as gates:
            decode(model)
            first = [layer._kept.clone() for layer in gates._mlps]
            found = model(INPUT_IDS[1:2]).logits
            torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)
            second = [layer._kept for layer in gates._mlps]
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_prompt_of_one_token_begins_anew(n_rows: int) -> None:
    model = random_model("llama", AutoModelForCausalLM)
    ids, empty = INPUT_IDS[:n_rows, :1], DynamicCache(config=model.config)
    with torch.no_grad():
        dense = model(ids).logits
        with gated(model, "sequence", 0.3):
            decoding = decode(model, n_rows)
            for arguments in ({}, {"past_key_values": empty}, {"use_cache": False}):
                assert torch.equal(decode(model, n_rows), decoding)
                found = model(ids, **arguments).logits
                torch.testing.assert_close(found, dense, rtol=1e-5, atol=1e-5)
                assert (decoding - dense).abs().max() > 1e-2


def test_calls_of_an_mlp_alone_go_on_with_the_prompt() -> None:
    """As a timing makes them: no forward of the model begins there."""
    model = random_model("llama", AutoModelForCausalLM)
    with gated(model, "sequence", 0.3) as gates, torch.no_grad():
        model(INPUT_IDS[:1])
        first = [layer._kept for layer in gates._mlps]
        for block in model.model.layers:
            block.mlp(torch.ones(1, 1, 16))
        assert all(layer._kept is kept for layer, kept in zip(gates._mlps, first, strict=True))
        assert gates.kept_fraction() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("execution", ["masked", "auto"])
def test_beams_of_a_prompt_share_its_set(execution: str) -> None:
    model = random_model("llama", AutoModelForCausalLM)
    arguments = {"max_new_tokens": 4, "num_beams": 3, "pad_token_id": 0, "do_sample": False}
    arguments |= {"eos_token_id": None, "attention_mask": torch.ones_like(INPUT_IDS)}
    with gated(model, "sequence", 0.2, how=How(execution=execution)):
        together = model.generate(INPUT_IDS, **arguments)
        for row, ids in enumerate(INPUT_IDS):
            mask = torch.ones(1, len(ids), dtype=torch.int64)
            alone = model.generate(ids[None], **{**arguments, "attention_mask": mask})
            assert torch.equal(alone[0], together[row])


def test_rows_of_a_batch_have_their_own_sets() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    with gated(model, "sequence", 0.3):
        together = decode(model, 2)
        alone = decode(model, 1)
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


def test_a_token_without_a_prompt_is_dense() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    with torch.no_grad():
        expected = model(INPUT_IDS[:2, :1]).logits
        with gated(model, "sequence", 0.3) as gates:
            found = model(INPUT_IDS[:2, :1]).logits
            assert np.isnan(gates.kept_fraction())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_prompt_inside_a_call_chooses_for_the_rest_of_its_row() -> None:
    """As if the prompt had been one call, and each further token another."""
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    how = How(execution="masked", prompt_tokens=4)
    with gated(model, "sequence", 0.3, how=how) as gates, torch.no_grad():
        found = model(INPUT_IDS[:, :5]).logits[:, 4:]
        assert gates.kept_fraction() == pytest.approx(0.3)
    with gated(model, "sequence", 0.3, how=How(execution="masked")):
        expected = decode(model, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_prompt_scores_are_those_of_a_loop() -> None:
    acts = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    acts[1, 3] = 0
    for row, scores in zip(acts.double().numpy(), prompt_scores(acts), strict=True):
        scaled = [token / np.linalg.norm(token) for token in row if token.any()]
        np.testing.assert_allclose(scores, np.linalg.norm(scaled, axis=0), rtol=1e-5)

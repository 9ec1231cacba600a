"""Sites of gated MLPs are recorded and replaced, and text is generated."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from sdlms.models.architectures import Site
from sdlms.models.gated import How, gated
from sdlms.models.gating.rules import n_kept
from sdlms.models.recording import recording
from sdlms.models.replacing import replacing
from tests.models.gated_models import (
    EVERY_RULE,
    EVERY_TINY,
    MASKED,
    PROMPT,
    Snapshot,
    decoded,
    embedded,
    logits,
    prose,
    tiny,
)
from tests.models.tiny_models import INPUT_IDS


@EVERY_RULE
@EVERY_TINY
def test_sites_inside_are_before_the_rule_and_after_it(name: str, rule: str) -> None:
    model, learned = tiny(name)
    base, masks = model.base_model, {}
    how = How(execution="masked", on_mask=masks.__setitem__, prompt_tokens=PROMPT)
    with recording(base, [0], ["mlp_act"]) as recorded:
        neurons = recorded.run(INPUT_IDS)["mlp_act", 0]
    with gated(model, rule, 0.3, learned=learned, how=how):
        with recording(base, [0], ["mlp_act", "mlp_out"]) as recorded:
            found = recorded.run(INPUT_IDS)
            mask = masks[0]
        if rule != "input":  # whose inputs of the neurons are fewer
            assert torch.equal(found["mlp_act", 0], neurons)
        out = logits(model)
        with replacing(model, 0, "mlp_act", torch.zeros_like):
            assert not torch.equal(logits(model), out)
    kept = torch.where(mask, found["mlp_act", 0], 0)
    with (
        replacing(model, 0, "mlp_act", lambda acts: kept),
        recording(base, [0], ["mlp_out"]) as recorded,
    ):
        expected = recorded.run(INPUT_IDS)["mlp_out", 0]
    torch.testing.assert_close(found["mlp_out", 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["static", "sequence"])
@pytest.mark.parametrize("first", ["gated", "site"])
def test_neurons_of_compact_matrices_are_not_a_site(rule: str, first: str) -> None:
    model, learned = tiny("llama")
    before = Snapshot(model)

    @contextmanager
    def opened(site: Site) -> Iterator[None]:
        gating = gated(model, rule, 0.3, learned=learned)
        watching = replacing(model, 1, site, lambda acts: acts)
        with gating if first == "gated" else watching:
            with watching if first == "gated" else gating:
                yield

    with opened("mlp_act"), pytest.raises(ValueError, match=r"recorded or replaced.*'masked'"):
        decoded(model, INPUT_IDS[:1])
    with gated(model, rule, 0.3, learned=learned):
        expected = decoded(model, INPUT_IDS[:1])
    with opened("mlp_out"):
        assert torch.equal(decoded(model, INPUT_IDS[:1]), expected)
    with gated(model, rule, 0.3, learned=learned):
        decoded(model, INPUT_IDS[:1])
        with recording(model.base_model, [0], ["mlp_act"]) as recorded:
            if rule == "static":
                with pytest.raises(ValueError, match="recorded or replaced"):
                    recorded.run(INPUT_IDS)
            else:  # a prompt is dense
                assert recorded.run(INPUT_IDS)["mlp_act", 0].shape == (3, 9, 24)
    before.check()


def test_neurons_that_are_replaced_by_zero_are_not_chosen() -> None:
    model, _ = tiny("gpt_neox-parallel")
    masks: dict[int, Tensor] = {}
    how = How(execution="masked", on_mask=masks.__setitem__)

    def first_ten_off(acts: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(acts[..., :10]), acts[..., 10:]], -1)

    for opened in ("inside", "outside"):
        masks.clear()
        if opened == "inside":
            with gated(model, "post-norm", 0.3, how=how):
                with replacing(model, 1, "mlp_act", first_ten_off):
                    logits(model)
        else:
            with replacing(model, 1, "mlp_act", first_ten_off):
                with gated(model, "post-norm", 0.3, how=how):
                    logits(model)
        assert not masks[1][..., :10].any()
        assert masks[0][..., :10].any()
        assert (masks[1].sum(-1) == n_kept(0.3, 40)).all()


@pytest.mark.parametrize("n_rows", [1, 2])
@EVERY_RULE
def test_a_user_generates_inside(rule: str, n_rows: int) -> None:
    model, learned = embedded()
    before = Snapshot(model)
    ids, mask = prose()[:n_rows, :8].clone(), torch.ones(n_rows, 8, dtype=torch.int64)
    if n_rows == 2:
        mask[1, :3] = 0  # padded on the left
    arguments = {"attention_mask": mask, "max_new_tokens": 5, "min_new_tokens": 5}
    arguments |= {"do_sample": False, "pad_token_id": 0}
    with gated(model, rule, 0.3, learned=learned, how=MASKED):
        expected = model.generate(ids, **arguments)
    with gated(model, rule, 0.3, learned=learned) as gates:
        found = model.generate(ids, **arguments)
        assert gates.kept_fraction() < 0.5
    assert found.shape == (n_rows, 13)
    if rule != "random":
        assert torch.equal(found, expected)
    before.check()


@EVERY_RULE
@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_cache_of_fixed_length_serves_too(rule: str, n_rows: int) -> None:
    """Its attention mask is no tensor, or not one of two axes."""
    model, learned = tiny("llama")
    ids = INPUT_IDS[:n_rows]
    arguments = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    arguments["attention_mask"] = torch.ones_like(ids)
    with gated(model, rule, 0.3, learned=learned):
        expected = model.generate(ids, **arguments)
    with gated(model, rule, 0.3, learned=learned):
        found = model.generate(ids, cache_implementation="static", **arguments)
    assert torch.equal(found, expected)


def test_padding_on_the_left_does_not_choose_the_neurons_of_a_prompt() -> None:
    model, _ = embedded()
    padded = torch.cat([torch.full((1, 3), 7), prose()[:1, :8]], 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with gated(model, "sequence", 0.2, how=MASKED) as gates, torch.no_grad():
        model(prose()[:1, :8])
        expected = [layer._kept for layer in gates._mlps]
        for junk in (7, 9):
            padded[:, :3] = junk
            if junk == 7:
                model(padded, attention_mask=mask, position_ids=positions)
            else:  # by its place
                model.base_model(padded, mask, positions)
            for layer, kept in zip(gates._mlps, expected, strict=True):
                assert torch.equal(layer._kept, kept)

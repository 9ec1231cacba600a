"""Sparse execution of gated MLPs is masked execution."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sdlms.models.gated import Gates, How, Learned, gated
from tests.models.gated_models import (
    BACKENDS,
    EVERY_RULE,
    EVERY_TINY,
    MASKED,
    Snapshot,
    decoded,
    embedded,
    logits,
    logits_outside,
    prose,
    tiny,
)
from tests.models.tiny_models import INPUT_IDS


def executions(
    model: PreTrainedModel, learned: Learned, rule: str, keep: float, input_ids: Tensor
) -> Iterator[tuple[Tensor, Tensor, Gates]]:
    """Logits with masks and with what skips the work, of whole rows and of a decode."""
    run = decoded if rule == "sequence" else logits
    with gated(model, rule, keep, learned=learned, how=How(execution="masked", force_at_one=True)):
        expected = run(model, input_ids)
    for backend in BACKENDS:
        how = How(execution="sparse", backend=backend, force_at_one=True)
        with gated(model, rule, keep, learned=learned, how=how) as gates:
            yield expected, run(model, input_ids), gates


@EVERY_TINY
@EVERY_RULE
def test_sparse_execution_is_masked_execution(name: str, rule: str) -> None:
    model, learned = tiny(name)
    before = Snapshot(model)
    for ids in (INPUT_IDS, INPUT_IDS[:1]) if rule == "sequence" else (INPUT_IDS,):
        for expected, found, gates in executions(model, learned, rule, 0.3, ids):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert (found - logits_outside(name, ids)).abs().max() > 1e-2
            assert 0.1 < gates.kept_fraction() < 0.6
    before.check()


@EVERY_RULE
def test_sparse_execution_of_a_trained_model_is_masked_execution(rule: str) -> None:
    """192 neurons: the kernel's order of sums is its own here."""
    model, learned = embedded()
    for expected, found, _ in executions(model, learned, rule, 0.3, prose()[:1]):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)


@EVERY_TINY
@EVERY_RULE
def test_sparse_execution_at_keep_one_is_the_dense_model(name: str, rule: str) -> None:
    model, learned = tiny(name)
    for expected, found, gates in executions(model, learned, rule, 1.0, INPUT_IDS[:1]):
        torch.testing.assert_close(found, logits_outside(name, INPUT_IDS[:1]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert gates.kept_fraction() == pytest.approx(1)


@EVERY_RULE
def test_in_bfloat16_the_products_of_the_same_neurons_agree(rule: str) -> None:
    """Inputs are given to the maps: rounded otherwise, the set itself could be another one."""
    model, learned = embedded(torch.bfloat16)
    mlp = model.base_model.layers[1].mlp
    x = torch.randn(1, 6, 192, generator=torch.Generator().manual_seed(0)).bfloat16()
    resid = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = {}
    for execution in ("masked", "sparse"):
        how = How(execution=execution, layers=(1,))
        with gated(model, rule, 0.3, learned=learned, how=how), torch.no_grad():
            up, down = mlp.dense_h_to_4h(resid), mlp.dense_4h_to_h
            if up.shape[-1] < 192:  # compact: the neurons that there are
                found[execution] = mlp(resid)
            else:
                found[execution] = down(x) if rule != "static" else mlp(resid)
    scale = found["masked"].float().abs().max().clamp(min=1)
    assert ((found["sparse"] - found["masked"]).float().abs().max() / scale) < 2e-2


@EVERY_RULE
def test_auto_decodes_what_masks_decode(rule: str) -> None:
    model, learned = embedded()
    with gated(model, rule, 0.3, learned=learned, how=MASKED):
        expected = decoded(model, prose()[:1, :12])
    for backend in BACKENDS:
        with gated(model, rule, 0.3, learned=learned, how=How(backend=backend)):
            found = decoded(model, prose()[:1, :12])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)

"""The rule `input` reads rows of large inputs only, of every matrix."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdlms.models.gated import How, gated, learn
from tests.models.tiny_models import INPUT_IDS, random_model


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "llama"])
def test_rows_of_small_inputs_are_not_read(name: str, backend: str) -> None:
    """They are NaN here: a mask would pass them on."""
    model = random_model(name, AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    how = How(execution="sparse", backend=backend, layers=(1,))
    with gated(model, "input", 0.4, learned=learned, how=how) as gates, torch.no_grad():
        layer = gates._mlps[0]
        for (linear, stand_in), rows in zip(gates._stand_ins, layer._rows, strict=True):
            x = torch.zeros(1, 1, linear.n_inputs)
            x[..., ::2] = 100.0
            expected, kept = stand_in(x), rows.rows[1::2].clone()
            rows.rows[1::2] = torch.nan
            assert torch.equal(stand_in(x), expected)
            x[..., 1] = 100.0
            assert stand_in(x).isnan().any()
            rows.rows[1::2] = kept


@torch.no_grad()
def test_kept_fractions_are_weighted_by_the_sizes_of_the_matrices() -> None:
    """By hand, from the inputs that each matrix is given."""
    model = random_model("llama", AutoModelForCausalLM)
    learned = learn(model, INPUT_IDS)
    for execution in ("masked", "sparse"):
        seen: dict[int, torch.Tensor] = {}
        how = How(execution=execution, layers=(1,), backend="torch")
        with gated(model, "input", 0.4, learned=learned, how=how) as gates:
            layer = gates._mlps[0]
            for index, (_, stand_in) in enumerate(gates._stand_ins):
                stand_in.register_forward_pre_hook(
                    lambda module, args, index=index, seen=seen: seen.update({index: args[0]})
                )
            model(INPUT_IDS)
            kept = [
                float((seen[index].abs() > least).float().mean())
                for index, least in enumerate(layer._least)
            ]
            sizes = [linear.n_inputs * linear.n_outputs for linear in layer.mlp.maps]
            for _, stand_in in gates._stand_ins:
                stand_in._forward_pre_hooks.clear()
            by_hand = sum(k * s for k, s in zip(kept, sizes, strict=True)) / sum(sizes)
            assert gates.kept_fraction() == pytest.approx(by_hand, rel=1e-5)

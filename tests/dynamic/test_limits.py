from itertools import pairwise

import pytest
from transformers import AutoConfig, GPTNeoXConfig

from sdlms.dynamic.limits import (
    decode_flops,
    decode_savings,
    prefill_flops,
    prefill_savings,
)
from sdlms.errors import UserError
from sdlms.models.gating.costs import LayerCosts, Matrix, ModelCosts, costs_of
from sdlms.models.gating.rules import RULES
from tests.models.tiny_models import config_of


def pythia(d_model: int, n_layers: int, d_vocab: int = 50_304) -> ModelCosts:
    config = GPTNeoXConfig(
        vocab_size=d_vocab,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=d_model // 64,
        intermediate_size=4 * d_model,
    )
    return costs_of(config)


def square(n_up: int = 1, window: int | None = None) -> ModelCosts:
    """One layer of d 10 as formulas have it: attention 4 d^2, matrices of 4 d^2, nothing else."""
    up = (Matrix(10, 40),) * n_up
    layer = LayerCosts(up, Matrix(40, 10), 400, vectors=0, query_width=10, window=window)
    return ModelCosts((layer,), unembedding=0, other=0)


# The derived table: speedups of the MLP and of a layer, for rules that skip the down projection's
# rows and for rules that skip in both matrices.
TABLE = [
    (0.1, 1.82, 1.43, 10, 2.50),
    (0.2, 1.67, 1.36, 5, 2.14),
    (0.3, 1.54, 1.30, 3.3, 1.88),
    (0.5, 1.33, 1.20, 2, 1.50),
    (0.7, 1.18, 1.11, 1.4, 1.25),
]


@pytest.mark.parametrize(("keep", "down_mlp", "down_layer", "both_mlp", "both_layer"), TABLE)
def test_limits_of_an_mlp_and_of_a_layer(
    keep: float, down_mlp: float, down_layer: float, both_mlp: float, both_layer: float
) -> None:
    down = decode_savings(square(), "post-norm", keep, context=1)
    assert down.limit_mlp == pytest.approx(2 / (1 + keep))
    assert down.limit == pytest.approx(12 / (8 + 4 * keep))
    assert down.limit_mlp == pytest.approx(down_mlp, abs=0.006)
    assert down.limit == pytest.approx(down_layer, abs=0.006)
    for rule in ("input", "sequence", "static"):
        both = decode_savings(square(), rule, keep, context=1)
        assert both.limit_mlp == pytest.approx(1 / keep)
        assert both.limit == pytest.approx(12 / (4 + 8 * keep))
        assert both.limit_mlp == pytest.approx(both_mlp, abs=0.06)
        assert both.limit == pytest.approx(both_layer, abs=0.006)


@pytest.mark.parametrize(
    ("costs", "share", "cap", "at_a_tenth"),
    [
        (pythia(512, 6), 0.14, 1.16, 1.14),
        (pythia(1024, 24), 0.28, 1.40, 1.34),
        (pythia(2048, 24), 0.31, 1.44, 1.38),
        (pythia(4096, 32, 50_432), 0.32, 1.48, 1.41),
    ],
    ids=["70m", "410m", "1.4b", "6.9b"],
)
def test_limits_of_whole_models(
    costs: ModelCosts, share: float, cap: float, at_a_tenth: float
) -> None:
    nothing_kept = decode_savings(costs, "post-norm", 0.0, context=1)
    assert nothing_kept.bytes_reduction == pytest.approx(share, abs=0.005)
    assert nothing_kept.limit == pytest.approx(cap, abs=0.006)
    tenth = decode_savings(costs, "post-norm", 0.1, context=1)
    assert tenth.limit == pytest.approx(at_a_tenth, abs=0.006)


def test_flops_of_an_mlp_and_of_a_layer() -> None:
    saved = decode_savings(square(), "post-norm", 0.3, context=0)
    assert saved.flops_reduction_mlp == pytest.approx((1 - 0.3) / 2)
    assert saved.flops_reduction == pytest.approx((1 - 0.3) / 3)


def test_a_gated_mlp_by_hand() -> None:
    """Attention 400, gate, up and down 400 each; 50 tokens of context: 4 x 10 x 50 products."""
    down = decode_savings(square(n_up=2), "post-norm", 0.25, context=50)
    assert down.bytes_reduction_mlp == pytest.approx(300 / 1200)
    assert down.bytes_reduction == pytest.approx(300 / 1600)
    assert down.limit_mlp == pytest.approx(3 / 2.25)
    assert down.flops_reduction == pytest.approx(600 / (3200 + 2000))
    both = decode_savings(square(n_up=2), "input", 0.25, context=50)
    assert both.bytes_reduction_mlp == pytest.approx(900 / 1200)
    assert both.limit == pytest.approx(1600 / 700)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt-projected", "gemma2"])
def test_keeping_everything_saves_nothing_and_less_saves_more(name: str, rule: str) -> None:
    costs = costs_of(config_of(name))
    keeps = (1.0, 0.7, 0.3, 0.0)
    saved = [decode_savings(costs, rule, keep, context=9) for keep in keeps]
    assert saved[0].bytes_reduction == saved[0].flops_reduction == 0
    assert saved[0].limit == saved[0].limit_mlp == 1
    for more, less in pairwise(saved):
        assert 0 <= more.bytes_reduction < less.bytes_reduction < 1
        assert 0 <= more.flops_reduction < less.flops_reduction < 1
        assert more.limit < less.limit < less.limit_mlp


def test_nothing_read_has_no_limit() -> None:
    assert decode_savings(square(), "input", 0.0, context=1).limit_mlp == float("inf")


def test_layers_that_are_not_gated_are_read_whole() -> None:
    costs = pythia(512, 6)
    every = decode_savings(costs, "post-norm", 0.3, context=1)
    third = decode_savings(costs, "post-norm", 0.3, context=1, layers=(1, 4))
    assert third.bytes_reduction == pytest.approx(every.bytes_reduction / 3)
    assert third.bytes_reduction_mlp == pytest.approx(every.bytes_reduction_mlp / 3)
    assert decode_savings(costs, "post-norm", 0.3, 1, layers=()).limit == 1


def test_layers_may_have_different_widths() -> None:
    narrow = LayerCosts((Matrix(10, 20),), Matrix(20, 10), 0, 0, query_width=10, window=None)
    wide = LayerCosts((Matrix(10, 60),), Matrix(60, 10), 0, 0, query_width=10, window=None)
    costs = ModelCosts((narrow, wide), unembedding=0, other=0)
    assert decode_savings(costs, "post-norm", 0.5, 1).bytes_reduction == pytest.approx(0.25)
    only_wide = decode_savings(costs, "post-norm", 0.5, 1, layers=(1,))
    assert only_wide.bytes_reduction == pytest.approx(300 / 1600)


@pytest.mark.parametrize("rule", RULES)
def test_a_prefill_is_shortened_by_a_set_for_ever_alone(rule: str) -> None:
    saved = prefill_savings(square(), rule, 0.25, n_tokens=100)
    if rule != "static":
        assert saved.bytes_reduction == saved.flops_reduction == saved.flops_reduction_mlp == 0
        assert saved.limit == saved.limit_mlp == 1
    else:
        assert saved.bytes_reduction == pytest.approx(600 / 1200)
        assert saved.flops_reduction_mlp == pytest.approx(0.75)
        assert saved.flops_reduction == pytest.approx(600 * 200 / (1200 * 200 + 40 * 5050))
        assert saved.limit_mlp == pytest.approx(4)


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.7, 1.0])
def test_decoding_is_bound_by_bytes_and_a_prompt_by_operations(keep: float) -> None:
    """Attention takes operations and no weights; logits of a prompt weights and no operations."""
    costs = pythia(512, 6)
    decode = decode_savings(costs, "static", keep, context=2000)
    assert decode.limit == pytest.approx(1 / (1 - decode.bytes_reduction))
    prefill = prefill_savings(costs, "static", keep, n_tokens=2000)
    assert prefill.limit == pytest.approx(1 / (1 - prefill.flops_reduction))
    left = prefill_flops(costs, 2000) * (1 - prefill.flops_reduction)
    assert prefill.limit == pytest.approx(prefill_flops(costs, 2000) / left)
    assert prefill.bytes_reduction == decode.bytes_reduction
    if keep < 1:
        assert decode.flops_reduction < decode.bytes_reduction < prefill.flops_reduction
    assert decode.limit_mlp == prefill.limit_mlp == (1 / keep if keep else float("inf"))


@pytest.mark.parametrize("window", [None, 1, 4, 7, 8])
def test_a_prefill_is_as_many_decoded_tokens_but_for_the_logits(window: int | None) -> None:
    layer = square(window=window).layers[0]
    costs = ModelCosts((layer, square().layers[0]), unembedding=500, other=30)
    decoded = sum(decode_flops(costs, context) for context in range(1, 8))
    assert prefill_flops(costs, 7) == decoded - 6 * 2 * 500


def test_flops_against_torch() -> None:
    """torch's own counter of matrix products, on a model without biases, norms apart."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForCausalLM

    config = AutoConfig.for_model(**{**config_of("llama").to_dict(), "tie_word_embeddings": False})
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    costs = costs_of(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.tensor([[1]]))
    vectors = sum(layer.vectors for layer in costs.layers) + costs.other
    rotary = 2 * 2  # angles: one product of position and frequency, by a matrix product
    counted = decode_flops(costs, context=1) - 2 * vectors
    assert counted <= counter.get_total_flops() <= counted + rotary


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(UserError, match="no rule"):
        decode_savings(square(), "best", 0.3, context=1)
    with pytest.raises(UserError, match="no rule"):
        prefill_savings(square(), "best", 0.3, n_tokens=1)

"""Which product is taken where, and that the exact one is the model's own."""

import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.lens import unembedding
from sdlms.lens.unembedding import (
    LEAST_VOCABULARY,
    ExactUnembedding,
    unembed_dtype_for,
    unembed_dtype_of,
)
from sdlms.models.unembedding import capped, logits_of, unembedding_input, unembedding_of
from tests.lens.heads import head_model, related_states
from tests.models.tiny_models import EVERY_CAUSAL_CASE, config_of, random_model

CPU = torch.device("cpu")


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that multiplies bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.mark.usefixtures("capable")
def test_auto_is_bfloat16_where_everything_speaks_for_it() -> None:
    large = config_of("gpt2", {"vocab_size": LEAST_VOCABULARY})
    assert unembed_dtype_for("auto", CPU, large) == "bfloat16"
    assert unembed_dtype_for("float32", CPU, large) == "float32"
    small = config_of("gpt2", {"vocab_size": LEAST_VOCABULARY - 1})
    assert unembed_dtype_for("auto", CPU, small) == "float32"
    assert unembed_dtype_for("auto", torch.device("cuda"), large) == "float32"
    capped = config_of("gemma2", {"vocab_size": LEAST_VOCABULARY})
    assert unembed_dtype_for("auto", CPU, capped) == "float32"
    uncapped = config_of("gemma3_text-uncapped", {"vocab_size": LEAST_VOCABULARY})
    assert unembed_dtype_for("auto", CPU, uncapped) == "bfloat16"


def test_auto_is_float32_on_a_processor_that_emulates_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    large = config_of("gpt2", {"vocab_size": LEAST_VOCABULARY})
    assert unembed_dtype_for("auto", CPU, large) == "float32"
    assert unembed_dtype_for("bfloat16", CPU, large) == "bfloat16"


def test_this_processor_can_be_asked() -> None:
    assert unembedding._multiplies_bfloat16() in (True, False)


def test_bfloat16_is_refused_in_a_line_that_says_why() -> None:
    with pytest.raises(UserError, match=r"not for logits capped at 2.0; use --unembed float32\.$"):
        unembed_dtype_for("bfloat16", CPU, config_of("gemma2"))
    with pytest.raises(UserError, match="not for a model on cuda"):
        unembed_dtype_for("bfloat16", torch.device("cuda", 0), config_of("gpt2"))


def test_a_loaded_model_is_asked_by_its_config_and_device() -> None:
    model = random_model("gpt2", AutoModelForCausalLM)
    assert unembed_dtype_of("auto", model) == "float32"
    assert unembed_dtype_of("bfloat16", model) == "bfloat16"


@EVERY_CAUSAL_CASE
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_exact_logits_are_the_models_own(name: str, dtype: torch.dtype) -> None:
    model = random_model(name, AutoModelForCausalLM).to(dtype)
    states = related_states(5, 3, 16)
    logits = logits_of(model, states).float()
    wanted = torch.randint(0, 50, (5, 4))
    found = ExactUnembedding(model).measure(states, wanted, 50)
    own = found.log_probabilities + found.log_normalizer[..., None]
    expected = logits.gather(-1, wanted[:, None].expand(-1, 3, -1))
    # A product of another shape may round the last digit of the model's dtype otherwise.
    step = 1e-5 if dtype == torch.float32 else 2**-7
    assert_allclose(own, expected, rtol=step, atol=step)


@pytest.mark.parametrize("name", ["gemma2", "phi", "opt-projected"])
@torch.no_grad()
def test_tokens_that_a_16_bit_model_rounds_alike_are_told_apart(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM).bfloat16()
    states = torch.randn(40, 3, model.config.hidden_size, generator=torch.manual_seed(0)).bfloat16()
    head, inputs = unembedding_of(model), unembedding_input(model, states).double()
    bias = 0 if head.bias is None else head.bias.double()
    exact = capped(model, inputs @ head.weight.double().T + bias).log_softmax(-1)
    found = ExactUnembedding(model).measure(states.float(), torch.zeros(40, 1).long(), 10)
    assert_allclose(found.top_log_probabilities, exact.topk(10).values, rtol=1e-5, atol=1e-5)
    ties = logits_of(model, states).topk(10).values.diff(dim=-1) == 0
    assert ties.any(), "the model itself rounds none alike"


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, states = head_model("phi", 16, 700, 4), related_states(6, 3, 16)
    wanted = torch.randint(0, 700, (6, 2))
    one = ExactUnembedding(model).measure(states, wanted, 40)
    monkeypatch.setattr("sdlms.lens.sweeping.TILE_NUMBERS", 96 * 1024)
    other = ExactUnembedding(model).measure(states, wanted, 40)
    for name, values in one._asdict().items():
        assert_allclose(values, getattr(other, name), rtol=2e-6, atol=5e-6, err_msg=name)

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from sdlms.models.fresh import empty_model, fresh_model, state_hash
from tests.models.tiny_models import CASES, EVERY_CAUSAL_CASE, config_of


@pytest.mark.parametrize("name", CASES)
def test_fresh_weights_depend_on_the_seed_and_on_nothing_else(name: str) -> None:
    config = config_of(name)
    settings = config.to_dict()
    first = state_hash(fresh_model(config, 3))
    torch.rand(5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert state_hash(fresh_model(config, 3)) == first
    finally:
        torch.set_num_threads(threads)
    assert state_hash(fresh_model(config, 4)) != first
    assert config.to_dict() == settings


def test_it_is_the_familys_own_initialisation() -> None:
    """What transformers alone would make of the same seed; a user can do it by hand."""
    config = config_of("gpt2")
    torch.manual_seed(11)
    expected = AutoModel.from_config(config, dtype=torch.float32).state_dict()
    found = fresh_model(config, 11).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_configs_own_type_changes_nothing(dtype: str) -> None:
    config = config_of("llama")
    expected = state_hash(fresh_model(config, 0))
    config.dtype = dtype
    model = fresh_model(config, 0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert state_hash(model) == expected


def test_random_numbers_of_the_process_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    fresh_model(config_of("bert"), 7)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_first_and_the_last_seed_are_taken(seed: int) -> None:
    weights = fresh_model(config_of("gpt2"), seed)
    assert all(torch.isfinite(weight).all() for weight in weights.parameters())
    assert state_hash(weights) == state_hash(fresh_model(config_of("gpt2"), seed))
    assert state_hash(weights) != state_hash(fresh_model(config_of("gpt2"), 1))


def test_same_shapes_other_values_than_the_trained_model(
    architecture_model: Callable[[str], Path],
) -> None:
    folder = architecture_model("gpt_neox")
    trained = AutoModel.from_pretrained(folder).state_dict()
    fresh = fresh_model(AutoConfig.from_pretrained(folder), 1).state_dict()
    assert {name: x.shape for name, x in fresh.items()} == {
        name: x.shape for name, x in trained.items()
    }
    matrices = [name for name, x in trained.items() if x.dim() == 2]
    assert not [name for name in matrices if torch.equal(fresh[name], trained[name])]


@pytest.mark.parametrize("name", CASES)
def test_an_empty_model_has_the_shapes_and_no_memory(name: str) -> None:
    config = config_of(name)
    settings = config.to_dict()
    empty = empty_model(config, torch.bfloat16)
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    fresh = {name: x.shape for name, x in fresh_model(config, 0).state_dict().items()}
    assert {name: x.shape for name, x in empty.state_dict().items()} == fresh
    assert config.to_dict() == settings


@EVERY_CAUSAL_CASE
def test_a_head_changes_nothing_of_the_base_model(name: str) -> None:
    config = config_of(name)
    model = fresh_model(config, 3, "causal")
    assert model.get_output_embeddings() is not None
    assert state_hash(model.base_model) == state_hash(fresh_model(config, 3))
    empty = empty_model(config, torch.float32, "causal").state_dict()
    assert {n: x.shape for n, x in empty.items()} == {
        n: x.shape for n, x in model.state_dict().items()
    }


def test_a_hash_sees_every_bit_and_every_name() -> None:
    model = fresh_model(config_of("gpt2"), 0)
    found = {state_hash(model)}
    with torch.no_grad():
        model.ln_f.bias[0] = torch.finfo(torch.float32).smallest_normal
    found.add(state_hash(model))
    model.ln_f.bias, model.ln_f.weight = model.ln_f.weight, model.ln_f.bias
    found.add(state_hash(model))
    assert len(found) == 3

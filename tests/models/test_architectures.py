"""The architecture table fits the models that transformers builds."""

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import (
    ARCHITECTURES,
    SITES,
    activation_name,
    architecture_of,
    blocks_of,
    n_layers,
    n_units,
)

EVERY_ARCHITECTURE = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))


def weightless(model_type: str, **settings: object) -> PreTrainedModel:
    """A base model of two layers without storage: shapes and modules only."""
    config = AutoConfig.for_model(model_type, num_hidden_layers=2, **settings)
    with torch.device("meta"):
        return AutoModel.from_config(config)


@EVERY_ARCHITECTURE
def test_every_path_resolves(model_type: str) -> None:
    model, architecture = weightless(model_type), architecture_of(model_type)
    if architecture.final_norm is not None:
        assert architecture.final_norm in dict(model.named_modules())
    for block in blocks_of(model):
        found = set(dict(block.named_modules()))
        assert architecture.mlp is None or architecture.mlp in found
        assert {architecture.tap(site).path for site in SITES} <= found


@EVERY_ARCHITECTURE
def test_counts_match_the_modules(model_type: str) -> None:
    model, architecture = weightless(model_type), architecture_of(model_type)
    blocks = blocks_of(model)
    assert len(blocks) == n_layers(model.config) == 2
    weight = blocks[0].get_submodule(architecture.down_projection).weight
    sizes = {n_units(model.config, "mlp_act"), n_units(model.config, "mlp_out")}
    assert set(weight.shape) == sizes
    assert len(sizes) == 2
    for site in ("mlp_out", "attn_out", "resid_pre", "resid_post"):
        assert n_units(model.config, site) == model.config.hidden_size


@pytest.mark.parametrize(("n_inner", "expected"), [(None, 64), (24, 24)])
def test_gpt2_width_may_be_unset(n_inner: int | None, expected: int) -> None:
    model = weightless("gpt2", n_embd=16, n_head=2, n_inner=n_inner)
    assert n_units(model.config, "mlp_act") == expected
    assert blocks_of(model)[0].get_submodule("mlp.c_proj").weight.shape == (expected, 16)


@EVERY_ARCHITECTURE
def test_activation_name_is_the_attribute_that_the_model_uses(model_type: str) -> None:
    attribute = architecture_of(model_type).activation
    model = weightless(model_type, **{attribute: "relu"})
    assert activation_name(model.config) == "relu"
    assert any(isinstance(module, torch.nn.ReLU) for module in blocks_of(model).modules())


def test_parallel_residual_is_the_configs_matter_in_gpt_neox() -> None:
    parallel = architecture_of("gpt_neox").parallel_residual
    for value in (True, False):
        assert parallel(AutoConfig.for_model("gpt_neox", use_parallel_residual=value)) is value
    for model_type in ("bert", "gpt2", "llama"):
        config = AutoConfig.for_model(model_type)
        assert not architecture_of(model_type).parallel_residual(config)


def test_unknown_model_type_names_the_known_ones() -> None:
    known = ", ".join(sorted(ARCHITECTURES))
    assert {"bert", "gpt2", "gpt_neox", "llama"} <= set(known.split(", "))
    message = (
        f"unknown model_type 'mamba'; the architecture table knows {known}. "
        'To add an entry: CONTRIBUTING.md, "Adding an architecture".'
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        architecture_of("mamba")


def test_a_model_with_a_head_is_refused() -> None:
    config = AutoConfig.for_model("gpt_neox", num_hidden_layers=1)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="GPTNeoXForCausalLM is not a base model"):
        blocks_of(model)


def test_import_is_light() -> None:
    code = (
        "import sys, sdlms.models.architectures as a; a.architecture_of('gpt2');"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

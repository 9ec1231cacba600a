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
    architecture_for,
    architecture_of,
    blocks_of,
    check_causal,
    n_layers,
    n_units,
    text_config,
)
from sdlms.models.unembedding import final_norm_of
from tests.models.tiny_models import CASES, EVERY_CASE, Settings, config_of


def weightless(name: str, settings: Settings | None = None) -> PreTrainedModel:
    """The base model of a case without storage: shapes and modules only."""
    with torch.device("meta"):
        return AutoModel.from_config(config_of(name, settings))


@EVERY_CASE
def test_every_path_resolves(name: str) -> None:
    model = weightless(name)
    architecture = architecture_for(model.config)
    norm = final_norm_of(model)
    assert norm is None or norm in model.modules()
    for block in blocks_of(model):
        found = set(dict(block.named_modules()))
        assert architecture.mlp is None or architecture.mlp in found
        assert {architecture.tap(site).path for site in SITES} <= found


def test_every_final_norm_is_there_in_some_model() -> None:
    for model_type, architecture in ARCHITECTURES.items():
        names = [name for name, case in CASES.items() if case["model_type"] == model_type]
        found = [final_norm_of(weightless(name)) is not None for name in names]
        assert any(found) == (architecture.final_norm is not None)


@EVERY_CASE
def test_counts_match_the_modules(name: str) -> None:
    model = weightless(name)
    blocks = blocks_of(model)
    assert len(blocks) == n_layers(model.config) > 2
    weight = blocks[0].get_submodule(architecture_for(model.config).down_projection).weight
    sizes = {n_units(model.config, "mlp_act"), n_units(model.config, "mlp_out")}
    assert set(weight.shape) == sizes
    assert len(sizes) == 2
    for site in ("mlp_out", "attn_out", "resid_pre", "resid_post"):
        assert n_units(model.config, site) == text_config(model.config).hidden_size == 16


@EVERY_CASE
def test_activation_name_is_the_attribute_that_the_model_uses(name: str) -> None:
    attribute = architecture_for(config_of(name)).activation
    for function, module_class in (("relu", torch.nn.ReLU), ("tanh", torch.nn.Tanh)):
        model = weightless(name, {attribute: function})
        assert activation_name(model.config) == function
        classes = [isinstance(module, module_class) for module in blocks_of(model).modules()]
        assert sum(classes) == n_layers(model.config)


def test_the_text_config_is_the_part_that_has_layers() -> None:
    multimodal = config_of("gemma3")
    assert multimodal.model_type == "gemma3"
    assert text_config(multimodal).model_type == "gemma3_text"
    plain = config_of("llama")
    assert text_config(plain) is plain


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gemma3_text"])
def test_what_an_entry_does_not_describe_is_refused(name: str) -> None:
    """EmbeddingGemma is a gemma3_text whose tokens see later ones."""
    model = weightless(name, {"use_bidirectional_attention": True})
    message = (
        f"model_type '{name}' with use_bidirectional_attention=True is not supported: the "
        "architecture table describes the family without use_bidirectional_attention. "
        "Use another model."
    )
    for refusing in (
        lambda: architecture_for(model.config),
        lambda: n_units(model.config, "resid_post"),
        lambda: activation_name(model.config),
        lambda: blocks_of(model),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            refusing()


@EVERY_CASE
def test_encoders_predict_no_next_token(name: str) -> None:
    config = config_of(name)
    if config.model_type != "bert":
        return check_causal(config)
    with pytest.raises(UserError, match=r"'bert' is an encoder.*Use a causal model") as found:
        check_causal(config)
    assert "\n" not in str(found.value)


def test_unknown_model_type_names_the_known_ones_and_the_way_in() -> None:
    known = ", ".join(sorted(ARCHITECTURES))
    message = (
        f"unknown model_type 'mamba'; the architecture table knows {known}. To add it, give "
        "ARCHITECTURES in sdlms/models/architectures.py an entry: where blocks, attention output, "
        "MLP output, down projection and final norm live, gated or not, causal or not (steps and "
        'checks: CONTRIBUTING.md, "Adding an architecture").'
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        architecture_of("mamba")
    with pytest.raises(UserError, match="unknown model_type 'mamba'"):
        architecture_for(AutoConfig.for_model("mamba"))


def test_the_families_that_were_promised_are_known() -> None:
    promised = (
        "bert gemma2 gemma3 gemma3_text gpt2 gpt_neo gpt_neox gptj llama mistral olmo2 opt phi "
        "qwen2 qwen3"
    )
    assert sorted(ARCHITECTURES) == promised.split()


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

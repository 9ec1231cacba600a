import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_of, blocks_of
from sdlms.models.gating.costs import Matrix, costs_of
from tests.models.tiny_models import CAUSAL, INPUT_IDS, config_of, random_model


@pytest.mark.parametrize("name", CAUSAL)
def test_shapes_are_those_of_what_goes_in_and_comes_out(name: str) -> None:
    model = random_model(name)
    architecture = architecture_of(model.config.model_type)
    seen: dict[nn.Module, Matrix] = {}

    def note(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen[module] = Matrix(args[0].shape[-1], output.shape[-1])

    paths = (*architecture.up, architecture.down_projection)
    matrices = [[block.get_submodule(path) for path in paths] for block in blocks_of(model)]
    for module in (module for layer in matrices for module in layer):
        module.register_forward_hook(note)
    with torch.no_grad():
        model(INPUT_IDS)
    costs = costs_of(model.config)
    assert [[*layer.up, layer.down] for layer in costs.layers] == [
        [seen[module] for module in layer] for layer in matrices
    ]


@pytest.mark.parametrize("name", [name for name in CAUSAL if name != "gemma3"])
def test_every_weight_is_read_but_the_other_rows_of_embeddings(name: str) -> None:
    config = config_of(name)
    model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight
    expected = model.num_parameters()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            expected += module.embedding_dim
            expected -= 0 if module.weight is head else module.weight.numel()
    assert costs_of(config).n_weights == expected


def test_images_are_no_part_of_a_decoded_token() -> None:
    with_images, text = costs_of(config_of("gemma3")), costs_of(config_of("gemma3_text"))
    assert with_images == text


def test_a_tied_unembedding_is_read_whole() -> None:
    sizes = {"vocab_size": 1000, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    tied = costs_of(AutoConfig.for_model("gpt2", **sizes, tie_word_embeddings=True))
    apart = costs_of(AutoConfig.for_model("gpt2", **sizes, tie_word_embeddings=False))
    assert tied == apart
    assert tied.unembedding == 16_000
    # One row of each embedding, and the final norm's weights and biases.
    assert tied.other == 16 + 16 + 2 * 16


def test_a_gated_layer_by_hand() -> None:
    layer = costs_of(config_of("llama")).layers[0]
    assert layer.up == (Matrix(16, 24), Matrix(16, 24))
    assert layer.down == Matrix(24, 16)
    assert layer.mlp == 3 * 16 * 24
    # Two of four heads have keys and values.
    assert layer.attention == 16 * 16 + 2 * 16 * 8 + 16 * 16
    assert layer.vectors == 2 * 16
    assert layer.n_weights == layer.mlp + layer.attention + layer.vectors


def test_pythia_410m_has_its_published_size() -> None:
    config = GPTNeoXConfig(
        vocab_size=50_304,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
    )
    costs = costs_of(config)
    embedding_but_a_row = (50_304 - 1) * 1024
    assert costs.n_weights + embedding_but_a_row == 405_334_016
    assert costs.mlp == 24 * 8 * 1024**2


def test_windows_are_those_of_the_layers() -> None:
    def windows(name: str) -> list[int | None]:
        return [layer.window for layer in costs_of(config_of(name)).layers]

    assert windows("gemma2") == [4, None, 4]
    assert windows("gemma3") == [4, None, 4]
    assert windows("gpt_neo") == [None, 4, None, 4]
    assert windows("mistral") == [4, 4, 4]
    assert windows("qwen2") == [None, 4, 4]
    assert windows("llama") == [None, None, None]


def test_heads_may_be_wider_than_the_model() -> None:
    assert costs_of(config_of("qwen3")).layers[0].query_width == 4 * 8
    assert costs_of(config_of("gptj")).layers[0].query_width == 16


def test_encoders_are_refused() -> None:
    with pytest.raises(UserError, match="encoder"):
        costs_of(config_of("bert"))

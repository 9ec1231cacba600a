"""The linear maps of MLPs are found, and weights that cannot be laid out are refused."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, blocks_of
from sdlms.models.gating.layouts import LinearMap, mlps_of
from tests.models.tiny_models import EVERY_CASE, random_model


@EVERY_CASE
def test_the_maps_into_and_from_the_neurons_are_found(name: str) -> None:
    model = random_model(name)
    architecture = architecture_for(model.config)
    for mlp in mlps_of(model, None):
        assert len(mlp.ups) == 1 + architecture.gated
        for up in mlp.ups:
            assert (up.n_inputs, up.n_outputs) == (mlp.down.n_outputs, mlp.down.n_inputs)


def test_layers_are_chosen_and_checked() -> None:
    model = random_model("llama")
    assert [mlp.layer for mlp in mlps_of(model, (2, 0, 2))] == [0, 2]
    for layers in ((3,), (-1, 0), ()):
        with pytest.raises(ValueError, match="do not exist; the model has 0 to 2"):
            mlps_of(model, layers)


def phi() -> PreTrainedModel:
    return random_model("phi", AutoModelForCausalLM)


def quantised_(model: PreTrainedModel) -> None:
    class Linear4bit(nn.Linear):
        pass

    model.model.layers[1].mlp.fc2 = Linear4bit(40, 16)


def eight_bit_(model: PreTrainedModel) -> None:
    weight = model.model.layers[1].mlp.fc2.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.float8_e4m3fn)


def offloaded_(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.fc2.to("meta")


def shared_(model: PreTrainedModel) -> None:
    layers = model.model.layers
    layers[1].mlp.fc2.weight = layers[0].mlp.fc2.weight


def view_(model: PreTrainedModel) -> None:
    layers = model.model.layers
    layers[1].mlp.fc1.weight.data = layers[0].mlp.fc2.weight.data.t()


def double_(model: PreTrainedModel) -> None:
    model.double()


def weight_norm_(model: PreTrainedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is a newer one
        torch.nn.utils.weight_norm(model.model.layers[1].mlp.fc2)


def parametrised_(model: PreTrainedModel) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[1].mlp.fc2)


def spectral_norm_(model: PreTrainedModel) -> None:
    torch.nn.utils.spectral_norm(model.model.layers[1].mlp.fc2)


def pruned_(model: PreTrainedModel) -> None:
    prune.random_unstructured(model.model.layers[1].mlp.fc2, "bias", 0.5)


def gaps_(model: PreTrainedModel) -> None:
    weight = model.model.layers[1].mlp.fc2.weight
    weight.data = weight.data.repeat(1, 2)[:, ::2]


FROM_OTHERS = r"layer 1: its MLP's mlp.fc2 makes its weight from other tensors"


@pytest.mark.parametrize(
    ("spoil_", "message"),
    [
        (quantised_, r"layer 1: its MLP's mlp.fc2 is a Linear4bit; rules know Linear and Conv1D"),
        (eight_bit_, r"layer 1: its MLP's mlp.fc2 holds float8_e4m3fn; rules know float32, bf"),
        (double_, r"layer 0: its MLP's mlp.fc1 holds float64; rules know float32, bfloat16, fl"),
        (weight_norm_, FROM_OTHERS),
        (spectral_norm_, FROM_OTHERS),
        (pruned_, FROM_OTHERS),
        (parametrised_, r"layer 1: its MLP's mlp.fc2 is a ParametrizedLinear; rules know Linear"),
        (gaps_, r"layer 1: its MLP's mlp.fc2 has gaps in memory, strides \(80, 2\)"),
        (offloaded_, r"layer 1: its MLP's mlp.fc2 is not in memory \(device meta\)"),
        (shared_, r"layer 0: its MLP's mlp.fc2 shares its weight with another part"),
        (view_, r"layer 0: its MLP's mlp.fc2 shares its weight with another part"),
    ],
)
def test_weights_that_cannot_be_laid_out_are_refused(spoil_, message: str) -> None:  # noqa: ANN001
    model = phi()
    spoil_(model)
    with pytest.raises(UserError, match=message) as found:
        mlps_of(model, None)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("name", "path"), [("gpt2", "mlp.c_fc"), ("phi", "mlp.fc1")])
def test_rows_in_memory_are_known(name: str, path: str) -> None:
    block = blocks_of(random_model(name))[0]
    linear = LinearMap(block, path)
    assert linear.dense_rows == linear.rows
    linear.weight.data = linear.weight.data.t().contiguous().t()
    turned = LinearMap(block, path)
    assert {linear.rows, turned.dense_rows} == {"inputs", "outputs"}
    assert turned.by(turned.dense_rows).is_contiguous()
    for axis, n in (("inputs", turned.n_inputs), ("outputs", turned.n_outputs)):
        assert len(turned.by(axis)) == n

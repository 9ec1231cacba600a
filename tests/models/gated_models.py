"""Models for tests of gated MLPs, how they are run, and what must be as before in the end."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.models.architectures import n_layers, n_units
from sdlms.models.gated import How, Learned, learn
from sdlms.models.gating.rules import RULES
from sdlms.models.loading import find_model, load_causal_model, load_tokenizer
from tests.models.tiny_models import INPUT_IDS, random_model

TINY = ("gpt_neox-parallel", "gpt2", "llama", "gemma2", "opt", "phi")
EVERY_RULE = pytest.mark.parametrize("rule", RULES)
EVERY_TINY = pytest.mark.parametrize("name", TINY)
BACKENDS = ("torch", "auto")
MASKED = How(execution="masked")
PROMPT = 4


@cache
def tiny(name: str) -> tuple[PreTrainedModel, Learned]:
    model = random_model(name, AutoModelForCausalLM)
    return model, learn(model, INPUT_IDS, blocks=blocks(model))


@cache
def embedded(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Learned]:
    source = find_model("sdlms-small", None)
    model = load_causal_model(source, dtype, torch.device("cpu"))
    return model, learn(model, prose(), blocks=blocks(model))


@cache
def prose() -> Tensor:
    text = "The old man walked to the river and sat down. He looked at the water for a long time. "
    ids = load_tokenizer(find_model("sdlms-small", None))(text * 3)["input_ids"][:48]
    return torch.tensor(ids).view(2, -1)


def blocks(model: PreTrainedModel) -> dict[int, np.ndarray]:
    d_mlp = n_units(model.config, "mlp_act")
    return {layer: np.arange(d_mlp) // 5 - 1 for layer in range(n_layers(model.config))}


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: Tensor = INPUT_IDS) -> Tensor:
    found: Tensor = model(input_ids).logits
    return found


@torch.no_grad()
def decoded(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Logits of a prompt, and of the other tokens one by one."""
    output = model(input_ids[:, :PROMPT], use_cache=True)
    found = [output.logits]
    for token in input_ids[:, PROMPT:].T:
        output = model(token[:, None], past_key_values=output.past_key_values, use_cache=True)
        found.append(output.logits)
    return torch.cat(found, 1)


class Snapshot:
    """Modules, weights and hooks of a model, and where its weights lie."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters())
        self._values = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._places = {name: (p.stride(), p.data_ptr()) for name, p in self._parameters.items()}
        self._hooks = self._n_hooks()

    def _n_hooks(self) -> int:
        modules = self._model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    def check(self) -> None:
        modules, parameters = dict(self._model.named_modules()), self._model.named_parameters()
        assert list(modules) == list(self._modules)
        assert all(modules[name] is module for name, module in self._modules.items())
        for name, parameter in parameters:
            assert parameter is self._parameters[name]
            assert torch.equal(parameter, self._values[name])
            assert (parameter.stride(), parameter.data_ptr()) == self._places[name]
        assert self._n_hooks() == self._hooks


@cache
def dense_logits(name: str) -> Tensor:
    return logits(random_model(name, AutoModelForCausalLM))


def logits_outside(name: str, input_ids: Tensor) -> Tensor:
    return dense_logits(name)[: len(input_ids)]

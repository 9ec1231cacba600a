"""Every listed architecture survives the way through a folder."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.utils import logging

from sdlms.models.loading import ModelSource, find_model, load_base_model, load_config
from tests.models.tiny_models import CASES, EVERY_CASE, INPUT_IDS, padding_mask, random_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_progress_bar() -> None:
    logging.disable_progress_bar()


@EVERY_CASE
@pytest.mark.parametrize("model_class", [AutoModel, AutoModelForCausalLM])
@torch.no_grad()
def test_a_saved_model_loads_without_a_missing_tensor(
    name: str, model_class: type, tmp_path: Path
) -> None:
    saved = random_model(name, model_class)
    saved.save_pretrained(tmp_path)
    source: ModelSource = find_model(str(tmp_path), None)
    assert load_config(source).model_type == CASES[name]["model_type"]
    loaded = load_base_model(source, torch.float32, CPU)  # refuses what lacks a tensor
    assert loaded.base_model is loaded
    parameters = dict(saved.base_model.named_parameters())
    for key, parameter in loaded.named_parameters():
        assert key.startswith("pooler.") or torch.equal(parameter, parameters[key])
    mask = padding_mask(loaded)
    before = saved.base_model(INPUT_IDS, attention_mask=mask).last_hidden_state
    assert torch.equal(loaded(INPUT_IDS, attention_mask=mask).last_hidden_state, before)

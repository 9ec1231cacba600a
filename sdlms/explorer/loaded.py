"""A causal model with its tokenizer and chat template, and what tells it from every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdlms.errors import UserError
from sdlms.explorer.prompting import Prompting, prompting_of
from sdlms.models.chat import ChatTemplate, Message
from sdlms.models.inputs import check_vocabulary
from sdlms.models.loading import (
    ModelSource,
    load_causal_model,
    load_config,
    load_tokenizer,
)
from sdlms.models.recorded import model_record

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that can be asked.

    Attributes:
        model: causal, in eval mode.
        tokenizer: its own.
        prompting: how it wants a chat.
        record: name, revision, commit, and hashes of config, weights and tokenizer, as
            `model_record` gives them.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompting: Prompting
    record: dict[str, Any]

    @property
    def config(self) -> PreTrainedConfig:
        """The model's."""
        return self.model.config

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return str(self.record["name"])

    @property
    def dtype(self) -> str:
        """Of the weights, `float32` or another."""
        return str(self.model.dtype).removeprefix("torch.")

    def cache_key(self) -> dict[str, Any]:
        """What stored states depend on; what has another key must never read them."""
        record = self.record
        names = ("name", "revision", "commit", "reinit_seed", "config", "weights", "tokenizer")
        return {
            **{name: record.get(name) for name in names},
            "dtype": self.dtype,
            "device": self.model.device.type,
            "template": self.prompting.template.hash,
        }


def load_for_exploring(
    source: ModelSource, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    """Load what `find_model` found.

    Raises:
        UserError: it is an encoder, has no tokenizer, or another model's, or cannot be read.
    """
    config, tokenizer = load_config(source), load_tokenizer(source)
    check_vocabulary(source, config, _largest_of_frame(tokenizer))
    record = model_record(source, config)
    model = load_causal_model(source, dtype, device)
    return LoadedModel(model, tokenizer, prompting_of(model, tokenizer), record)


def _largest_of_frame(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id among the tokens that every chat has; -1 where the template makes none."""
    try:
        parts = ChatTemplate(tokenizer).opening([Message("user", "")])
    except UserError:  # the first chat says so again
        return -1
    text = "".join(part.text for part in parts)
    return max(tokenizer(text, add_special_tokens=False).input_ids, default=-1)

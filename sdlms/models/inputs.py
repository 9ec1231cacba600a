"""A model and the documents it will read, checked and tokenised before any weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdlms.errors import UserError
from sdlms.models.architectures import Architecture, architecture_of, n_layers
from sdlms.models.loading import (
    ModelSource,
    find_model,
    load_config,
    load_tokenizer,
    tokenizer_hashes,
    weight_hashes,
)
from sdlms.models.tokens import Budget, Text, Tokens, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Inputs:
    """What a stage that runs a model starts from.

    Attributes:
        source: where the model is.
        config: the model's config.
        architecture: its entry in the architecture table.
        tokens: the documents that were kept.
    """

    source: ModelSource
    config: "PreTrainedConfig"
    architecture: Architecture
    tokens: Tokens

    def model_record(self) -> dict[str, Any]:
        """The model as `meta.jsonl` records it, with hashes; fetches a hub model's weights."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "commit": self.source.commit,
            "model_type": self.config.model_type,
            "n_layers": n_layers(self.config),
            "weights": weight_hashes(self.source),
            "tokenizer": tokenizer_hashes(self.source),
        }


def read_model(model: str, revision: str | None) -> tuple[ModelSource, "PreTrainedConfig"]:
    """Find a model and check that its family is known.

    Raises:
        UserError: there is no such model, or the architecture table lacks its family.
    """
    source = find_model(model, revision)
    config = load_config(source)
    architecture_of(config.model_type)
    return source, config


def read_inputs(
    source: ModelSource,
    config: "PreTrainedConfig",
    texts: Sequence[Sequence[Text]],
    budget: Budget,
) -> Inputs:
    """Tokenise the documents of each task for this model.

    Raises:
        UserError: the tokenizer cannot be loaded, does not belong to the model, or a task's
            budget is too small.
    """
    context = int(config.max_position_embeddings)
    tokens = tokenize(load_tokenizer(source), texts, context, budget)
    if (largest := int(tokens.rows.ids.max(initial=0))) >= config.vocab_size:
        raise UserError(
            f"--model {source.name}: its tokenizer gives token {largest}, but the model knows "
            f"{config.vocab_size} tokens. They do not belong together."
        )
    return Inputs(source, config, architecture_of(config.model_type), tokens)

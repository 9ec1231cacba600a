"""A model and the documents it will read, checked and tokenised before any weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdlms.errors import UserError
from sdlms.models.architectures import SITES, activation_name, architecture_of, n_layers, n_units
from sdlms.models.loading import (
    ModelSource,
    config_hashes,
    find_model,
    load_config,
    load_tokenizer,
    tokenizer_hashes,
    weight_hashes,
)
from sdlms.models.tokens import Budget, Text, Tokens, tokenize
from sdlms.storage.activations import Header, StoreDtype

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Inputs:
    """What a stage that runs a model starts from.

    Attributes:
        source: where the model is.
        config: the model's config.
        tokens: the documents that were kept.
    """

    source: ModelSource
    config: "PreTrainedConfig"
    tokens: Tokens

    def model_record(self) -> dict[str, Any]:
        """The model as `meta.jsonl` records it, with hashes; fetches a hub model's weights."""
        return {
            "name": self.source.name,
            "revision": self.source.revision,
            "commit": self.source.commit,
            "model_type": self.config.model_type,
            "n_layers": n_layers(self.config),
            "config": config_hashes(self.source),
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
    return Inputs(source, config, tokens)


def header_of(
    source: ModelSource,
    config: "PreTrainedConfig",
    sites: Sequence[str],
    layers: Sequence[int],
    store_dtype: StoreDtype | Literal["auto"],
) -> Header:
    """What will be stored: every site at every layer, with its width and type.

    Under `auto` neurons are float16 and residual-like sites bfloat16: residual streams have
    outliers beyond float16's range.
    """
    ordered = [site for site in SITES if site in sites]
    auto: dict[str, StoreDtype] = {"mlp_act": "float16"}
    return Header(
        model=source.name,
        revision=source.commit or "",
        units={(site, layer): n_units(config, site) for site in ordered for layer in layers},
        store_dtype={
            site: auto.get(site, "bfloat16") if store_dtype == "auto" else store_dtype
            for site in ordered
        },
        activation_function=activation_name(config),
        gated=architecture_of(config.model_type).gated,
    )

"""A model and the documents it will read, checked and tokenised before any weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from sdlms.errors import UserError
from sdlms.models.architectures import (
    SITES,
    activation_name,
    architecture_for,
    n_units,
    text_config,
)
from sdlms.models.loading import (
    ModelSource,
    check_buildable,
    find_model,
    load_config,
    load_tokenizer,
)
from sdlms.models.recorded import model_record
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
        return model_record(self.source, self.config)


def read_model(
    model: str, revision: str | None, reinit_seed: int | None = None
) -> tuple[ModelSource, "PreTrainedConfig"]:
    """Find a model and check that its family is known and that its config can be built.

    Args:
        model: an embedded name, a folder or a hub id.
        revision: of a hub model.
        reinit_seed: where it is given, the model is to have fresh weights from this seed.

    Raises:
        UserError: there is no such model, the architecture table does not describe it, or
            transformers cannot build it.
    """
    source = replace(find_model(model, revision), reinit_seed=reinit_seed)
    config = load_config(source)
    architecture_for(config)
    check_buildable(source, config)
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
    sizes = text_config(config)
    tokens = tokenize(load_tokenizer(source), texts, int(sizes.max_position_embeddings), budget)
    check_vocabulary(source, config, int(tokens.rows.ids.max(initial=0)))
    return Inputs(source, config, tokens)


def check_vocabulary(source: ModelSource, config: "PreTrainedConfig", largest: int) -> None:
    """Make sure that a model knows the tokens that its tokenizer gives.

    Args:
        source: the model.
        config: its config.
        largest: id among all tokens of the text.

    Raises:
        UserError: it does not.
    """
    n_known = text_config(config).vocab_size
    if largest >= n_known:
        raise UserError(
            f"--model {source.name}: its tokenizer gives token {largest}, but the model knows "
            f"{n_known} tokens. They do not belong together."
        )


def header_of(
    source: ModelSource,
    config: "PreTrainedConfig",
    sites: Sequence[str],
    layers: Sequence[int],
    store_dtype: StoreDtype | Literal["auto"],
    control: str = "none",
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
        gated=architecture_for(config).gated,
        control=control,
    )

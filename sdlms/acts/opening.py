"""Handles over finished runs, files and models."""

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlms.acts.handle import Acts
from sdlms.acts.sparse_source import source_of
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.storage.activations import StoreDtype
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_acts(
    run_or_path: Run | Path | str, site: str | None = None, artifacts: Path | str | None = None
) -> Acts:
    """The activations of a capture or sae-latents run, or of a file that `Acts.save` wrote.

    What the file says about itself is read at once; activations when they are asked for.

    Args:
        run_or_path: a run, its path or name, `latest` (the newest capture run), or a file.
        site: which one; may be left out where there is only one. Latents have one, `sae_latents`.
        artifacts: where runs are looked for by name; `SDLMS_ARTIFACTS` or `artifacts` otherwise.

    Returns:
        A handle with dims `blsh`, or what was saved.

    Raises:
        UserError: there is no such run, file or site, or its version is not known.
    """
    folder = artifacts or os.environ.get("SDLMS_ARTIFACTS", "artifacts")
    return Acts._of(source_of(run_or_path, Path(folder), site))


def collect(
    model: "PreTrainedModel | Path | str",
    tokens: Rows | Mapping[str, Any] | Sequence[Sequence[int]],
    layers: int | Sequence[int] | str = "25%,50%,75%",
    site: str = "resid_post",
    store_dtype: StoreDtype | None = None,
) -> Acts:
    """What a model records while it reads documents; it runs when the activations are asked for.

    Args:
        model: a loaded model of transformers, or what `--model` takes: an embedded name, a folder,
            a hub id.
        tokens: of the documents: `tokens_of(...)`, what a tokenizer returns, or lists of ids. Only
            `tokens_of` gives special tokens mask 0; in the other forms every token has mask 1, so
            that pooling reads special tokens too (the tokenizer's padding is cut off).
        layers: a number, which drops the axis l; several, in any order; or what `--layers` takes.
        site: `resid_pre`, `resid_post`, `attn_out`, `mlp_out` or `mlp_act`.
        store_dtype: values are rounded to it first, as in a file; float16 for neurons, bfloat16
            for the other sites, where nobody says.

    Returns:
        A handle with dims `blsh`, or `bsh` for one layer.

    Raises:
        UserError: model, tokens, layers or site do not fit together.
    """
    from sdlms.acts.live_source import live_source
    from sdlms.acts.token_rows import rows_of

    acts = Acts._of(live_source(model, rows_of(tokens), layers, site, store_dtype))
    return acts if isinstance(layers, str) else acts.select_layers(layers)


def tokens_of(model: str, texts: Sequence[str], tasks: Sequence[str] | None = None) -> Rows:
    """Texts as a model's tokenizer cuts them; special tokens get mask 0, long texts are cut.

    Args:
        model: what `--model` takes.
        texts: one per document.
        tasks: of each document.

    Raises:
        UserError: there is no such model, or a text is empty or none.
    """
    from sdlms.models.architectures import text_config
    from sdlms.models.inputs import read_model
    from sdlms.models.loading import load_tokenizer
    from sdlms.models.tokens import Text, tokenize_all, warn_of_truncation

    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise UserError(f"tokens_of: a list of texts is needed, got {texts!r:.40}.")
    texts = list(texts)
    if isinstance(tasks, str):
        raise UserError(f"tokens_of: a list of tasks is needed, got {tasks!r:.40}.")
    if not texts:
        raise UserError("tokens_of: there are no texts.")
    if tasks is not None and len(tasks) != len(texts):
        raise UserError(f"tokens_of: {len(tasks)} tasks for {len(texts)} texts.")
    if others := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
        kind = type(texts[others[0]]).__name__
        raise UserError(f"tokens_of: text {others[0]} is no text, but a {kind}.")
    if blank := [i for i, text in enumerate(texts) if not text]:
        raise UserError(f"tokens_of: text {blank[0]} is empty. Leave it out.")
    names = [""] * len(texts) if tasks is None else tasks
    documents = [
        Text(sha256(text.encode()).hexdigest()[:16], task, text)
        for text, task in zip(texts, names, strict=True)
    ]
    source, config = read_model(model, None)
    context = int(text_config(config).max_position_embeddings)
    tokens = tokenize_all(load_tokenizer(source), documents, context)
    warn_of_truncation(tokens)
    return tokens.rows


# Names that people who come from probelab know.
collect_activations = collect
load_activations = load_acts

"""The model as `meta.jsonl` records it (`start.resolved.model`), and the same model from a record.

A later stage reads a finished run and may need its model again: the very same weights, or one line
that says why not.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, check_causal, n_layers
from sdlms.models.failures import one_line_errors, quiet_transformers
from sdlms.models.fresh import Kind, empty_model
from sdlms.models.loading import (
    ModelSource,
    config_hashes,
    find_hub_model,
    find_model,
    load_base_model,
    load_causal_model,
    load_config,
    tokenizer_hashes,
    weight_hashes,
)
from sdlms.models.spreading import Spread
from sdlms.storage.cards import embedded_models

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def model_record(source: ModelSource, config: "PreTrainedConfig") -> dict[str, Any]:
    """What is recorded of a model, with hashes; fetches a hub model's weights, or makes fresh ones.

    Raises:
        UserError: there are no weights.
    """
    on_disk = source.commit is None and source.name not in embedded_models()
    return {
        "name": source.name,
        "folder": str(source.folder.resolve()) if on_disk else None,
        "revision": source.revision,
        "commit": source.commit,
        "reinit_seed": source.reinit_seed,
        "model_type": config.model_type,
        "n_layers": n_layers(config),
        "n_parameters": n_parameters(source, config),
        "config": config_hashes(source),
        "weights": weight_hashes(source),
        "tokenizer": tokenizer_hashes(source),
    }


def n_parameters(source: ModelSource, config: "PreTrainedConfig") -> int:
    """Numbers that are trained, tied ones once: of a causal model with its head.

    As transformers' `num_parameters` of the loaded model; no weights are made or read (10 ms).

    Raises:
        UserError: transformers cannot build the model with its head.
    """
    kind: Kind = "causal" if architecture_for(config).causal else "base"
    with one_line_errors(source.name, step="build it from its config"), quiet_transformers():
        return int(empty_model(config, torch.float32, kind).num_parameters())


def source_of(record: dict[str, Any]) -> ModelSource:
    """Find a recorded model again: the embedded one, its folder, or its commit on the hub.

    Its config is compared with the record; its weights are neither fetched nor read.

    Raises:
        UserError: it is gone, or its config has changed.
    """
    name, folder = record["name"], record.get("folder")
    if record["commit"] is not None:
        found = find_hub_model(name, record["commit"])
    elif folder is not None and not Path(folder).is_dir():
        raise UserError(f"model {name}: its folder {folder} is gone. Restore it, or capture anew.")
    else:
        found = find_model(folder or name, None)
    source = ModelSource(
        name, found.folder, record["revision"], record["commit"], record.get("reinit_seed")
    )
    _compare(source, config_hashes(source), record["config"])
    return source


def load_recorded_model(
    record: dict[str, Any], dtype: torch.dtype, device: torch.device, spread: Spread | None = None
) -> "PreTrainedModel":
    """The base model of a finished run, with the weights that the run had, fresh ones too.

    Args:
        record: `start.resolved.model` of the run's `meta.jsonl`.
        dtype: of the weights; it need not be the run's.
        device: where they go, unless they are spread.
        spread: how they are spread over several devices.

    Raises:
        UserError: as `source_of`; or its weights are others than the run's.
    """
    source = source_of(record)
    _compare(source, weight_hashes(source), record["weights"])
    return load_base_model(source, dtype, device, spread)


def load_recorded_causal_model(
    record: dict[str, Any], dtype: torch.dtype, device: torch.device, spread: Spread | None = None
) -> "PreTrainedModel":
    """The same model with its head.

    A run records the base model's fresh weights only: a fresh head is not compared.

    Args:
        record: `start.resolved.model` of the run's `meta.jsonl`.
        dtype: of the weights; it need not be the run's.
        device: where they go, unless they are spread.
        spread: how its base model is spread over several devices.

    Raises:
        UserError: as `load_recorded_model`; or it is an encoder, or was saved without its head.
    """
    source = source_of(record)
    check_causal(load_config(source))
    _compare(source, weight_hashes(source), record["weights"])
    return load_causal_model(source, dtype, device, spread)


def _compare(source: ModelSource, found: dict[str, str], recorded: dict[str, str]) -> None:
    """Refuse what is not what was recorded."""
    if found == recorded:
        return
    if "state" in recorded:
        raise UserError(
            f"model {source.name}: seed {source.reinit_seed} gives other fresh weights here than "
            f"in the run. Use the run's versions of torch (here {torch.__version__}) and "
            "transformers and a like processor, or capture anew."
        )
    names = sorted({name for name, _ in found.items() ^ recorded.items()})
    raise UserError(
        f"model {source.name}: {', '.join(names)} in {source.folder} changed since the run "
        "(sha256 differs). Restore it, or capture anew."
    )

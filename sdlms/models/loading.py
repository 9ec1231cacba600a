"""Find a model by embedded name, folder or hub id; load its tokenizer and the model itself.

Finding reads the config only; weights are fetched, hashed and loaded later, so that settings can
be checked first. Weights are safetensors, or fresh ones for a control; code that comes with a model
is never run.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdlms.errors import UserError, did_you_mean
from sdlms.models.architectures import check_causal
from sdlms.models.failures import MALFORMED, one_line_errors, quiet_transformers, reason_of
from sdlms.models.fresh import Kind, auto_class, empty_model, fresh_model, state_hash
from sdlms.models.hub_files import fetch, fetch_weights, weight_files
from sdlms.models.spreading import Spread, with_head
from sdlms.progress import LOGGER
from sdlms.storage.assets import asset_folder
from sdlms.storage.cards import CONFIG_FILE, embedded_models
from sdlms.storage.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER_FILES = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
]
# What only a chat needs; no part of the tokenizer that a run records.
CHAT_FILES = ["chat_template*", "generation_config.json"]
HUB_ID = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"  # the oldest models have no owner: gpt2


@dataclass(frozen=True)
class ModelSource:
    """A model that was found but not loaded.

    Attributes:
        name: as the user wrote it.
        folder: holds `config.json`; for a hub model its snapshot in the cache.
        revision: what the user asked for, None for the default.
        commit: the hub's commit, None for folders and embedded models.
        reinit_seed: where it is given, the model has fresh weights from this seed, not its own.
    """

    name: str
    folder: Path
    revision: str | None = None
    commit: str | None = None
    reinit_seed: int | None = None


def find_model(name: str, revision: str | None) -> ModelSource:
    """What `--model` means: an embedded name, then a folder, then a hub id.

    Raises:
        UserError: it is none of them, or the hub cannot be reached and has not cached it.
    """
    if not name:  # as a variable of the shell may be; pathlib would take it for the current folder
        raise UserError("--model is empty. Give an embedded name, a folder, or a hub id.")
    if name in embedded_models():
        _refuse_revision(name, revision)
        return ModelSource(name, asset_folder("models") / name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _refuse_revision(name, revision)
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"--model {name}: the folder has no config.json.")
        return ModelSource(name, folder)
    hint = did_you_mean(name, embedded_models())
    misspelt = "/" not in name and "Did you mean" in hint
    if not re.fullmatch(HUB_ID, name) or misspelt:
        raise UserError(
            f"--model '{name}' is no embedded model, no folder that exists, and no hub id "
            f"(owner/name).{hint}"
        )
    return find_hub_model(name, revision)


def find_hub_model(name: str, revision: str | None) -> ModelSource:
    """A model of the hub, or of its cache, without its weights.

    Raises:
        UserError: the hub does not know it, or cannot be reached and has not cached it.
    """
    snapshot = fetch(name, revision, [CONFIG_FILE, *TOKENIZER_FILES, *CHAT_FILES])
    return ModelSource(name, snapshot, revision, commit=snapshot.name)


def _refuse_revision(name: str, revision: str | None) -> None:
    """Only hub models have revisions."""
    if revision is not None:
        raise UserError(f"--revision is for hub models; '{name}' lies on this disk.")


def load_config(source: ModelSource) -> "PreTrainedConfig":
    """The model's config.

    Raises:
        UserError: `config.json` is missing, malformed, or of a family transformers lacks.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source.folder, trust_remote_code=False
        )
    except StrictDataclassError as error:  # which field on the first line, why on the second
        reason = reason_of(error, lines=2)
    except MALFORMED as error:
        reason = reason_of(error)
    else:
        return config
    raise UserError(f"--model {source.name}: cannot read its config: {reason}")


def check_buildable(source: ModelSource, config: "PreTrainedConfig") -> None:
    """Make sure that transformers can build the model; no weights are made or read (20 ms).

    Raises:
        UserError: the config asks for something that there is not, or contradicts itself.
    """
    with one_line_errors(source.name, step="build it from its config"), quiet_transformers():
        empty_model(config, torch.float32)


def load_tokenizer(source: ModelSource) -> "PreTrainedTokenizerBase":
    """The model's tokenizer.

    Raises:
        UserError: the folder holds none that can be read without the model's own code.
    """
    from transformers import AutoTokenizer

    # transformers would make an empty one up from the model's type.
    if not any(name != "tokenizer_config.json" for name in tokenizer_hashes(source)):
        raise UserError(f"--model {source.name}: no tokenizer in {source.folder}.")
    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--model {source.name}: cannot load its tokenizer: {reason}") from None


def tokenizer_hashes(source: ModelSource) -> dict[str, str]:
    """File name -> sha256 of what the tokenizer is made of."""
    files = {path for pattern in TOKENIZER_FILES for path in source.folder.glob(pattern)}
    return {path.name: sha256_of(path) for path in sorted(files) if path.is_file()}


def config_hashes(source: ModelSource) -> dict[str, str]:
    """File name -> sha256 of the config: the same weights compute otherwise under another one."""
    return {CONFIG_FILE: sha256_of(source.folder / CONFIG_FILE)}


def weight_hashes(source: ModelSource) -> dict[str, str]:
    """File name -> sha256 of the weights, fetched first when they are on the hub.

    Fresh weights have no file: `state` -> `state_hash`. They need none of the trained ones.

    Raises:
        UserError: there are no safetensors weights, or none can be made from the config.
    """
    if source.reinit_seed is not None:
        LOGGER.info(f"making fresh weights for {source.name} from seed {source.reinit_seed}")
        return {"state": state_hash(_fresh(source, config_hashes(source)[CONFIG_FILE], "base"))}
    if source.commit is not None:
        LOGGER.info(f"fetching the weights of {source.name}, unless they are cached")
        fetch_weights(source.name, source.commit)
    files = weight_files(source.name, source.folder)
    if absent := [path.name for path in files if not path.is_file()]:
        raise UserError(f"--model {source.name}: its weights lack the file {absent[0]}.")
    return {path.name: sha256_of(path) for path in files}


@lru_cache(maxsize=1)
def _fresh(source: ModelSource, config_sha256: str, kind: Kind) -> "PreTrainedModel":
    """A model with fresh weights, kept from hashing to loading: a large one takes minutes."""
    with one_line_errors(source.name):
        return fresh_model(load_config(source), source.reinit_seed or 0, kind)


def load_base_model(
    source: ModelSource, dtype: torch.dtype, device: torch.device, spread: Spread | None = None
) -> "PreTrainedModel":
    """The model without its head, ready to read: evaluation mode, no gradients.

    Args:
        source: what `find_model` found, with its own or with fresh weights.
        dtype: of the weights.
        device: where they go, unless they are spread.
        spread: how they are spread over several devices.

    Raises:
        UserError: the weights cannot be read, do not fit the config, or do not fit the memory.
    """
    return _load("base", source, dtype, device, spread)


def load_causal_model(
    source: ModelSource, dtype: torch.dtype, device: torch.device, spread: Spread | None = None
) -> "PreTrainedModel":
    """The model with its head, ready to predict next tokens: evaluation mode, no gradients.

    Its `base_model` has the weights that `load_base_model` gives, fresh ones too.

    Args:
        source: what `find_model` found, with its own or with fresh weights.
        dtype: of the weights.
        device: where they go, unless they are spread.
        spread: how its base model is spread over several devices; the head follows.

    Raises:
        UserError: it is an encoder (no weights are read), or as `load_base_model`; a model that was
            saved without its head lacks tensors.
    """
    config = load_config(source)
    check_causal(config)
    _fresh.cache_clear()  # what was hashed has no head
    spread = None if spread is None else with_head(spread, config)
    return _load("causal", source, dtype, device, spread)


def _load(
    kind: Kind,
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    spread: Spread | None,
) -> "PreTrainedModel":
    """A model with all its weights, with or without its head."""
    place = f"the memory of {device} in {dtype}"
    with one_line_errors(source.name, place), quiet_transformers():
        model, missing = _read_weights(kind, source, dtype, spread)
        if spread is None:
            model.to(device)  # type: ignore[arg-type]
    # transformers would fill these with random numbers. BERT's pooler is not part of any block.
    if missing := sorted(key for key in missing if not key.startswith("pooler.")):
        raise UserError(
            f"--model {source.name}: its weights lack {len(missing)} tensors, {missing[0]} first."
        )
    model.requires_grad_(False)
    model.train(False)
    return model


def _read_weights(
    kind: Kind,
    source: ModelSource,
    dtype: torch.dtype,
    spread: Spread | None,
) -> tuple["PreTrainedModel", list[str]]:
    """The model with its weights, and the names of those that it lacks."""
    arguments = {"dtype": dtype, **(spread.arguments() if spread else {})}
    model: PreTrainedModel
    if source.reinit_seed is None:
        model, info = auto_class(kind).from_pretrained(
            source.folder,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
        return model, list(info["missing_keys"])
    fresh = _fresh(source, config_hashes(source)[CONFIG_FILE], kind)
    _fresh.cache_clear()
    # As if they came from a file: the same parts stay in float32, and they may be spread.
    model = type(fresh).from_pretrained(
        None, config=fresh.config, state_dict=fresh.state_dict(), **arguments
    )
    return model, []

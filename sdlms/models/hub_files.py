"""The files of a model: fetched from the hub, and those that its weights are read from."""

import json
from pathlib import Path

from sdlms.errors import UserError
from sdlms.storage.cards import embedded_models

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"


def fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Download, or find in the cache under HF_HOME, some files of a hub model.

    Returns:
        The snapshot in the cache; it may hold other files too.

    Raises:
        UserError: the hub does not know it, or cannot be reached and has not cached it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise UserError(
            f"--model {name}: the hub cannot be reached and the cache does not hold it. "
            f"Give a folder, or one of: {', '.join(embedded_models())}."
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0].strip(" .")
        raise UserError(f"--model {name}: the hub refuses: {reason}.") from None
    except OSError as error:
        raise UserError(f"--model {name}: cannot fetch it: {error}") from None


def fetch_weights(name: str, commit: str) -> None:
    """Fetch what a hub model's weights are read from, and no weights beside it.

    Raises:
        UserError: as `fetch`; or the index cannot be read.
    """
    folder = fetch(name, commit, [WEIGHTS, WEIGHTS_INDEX])
    if shards := [path.name for path in weight_files(name, folder) if path.name != WEIGHTS]:
        fetch(name, commit, shards)


def weight_files(name: str, folder: Path) -> list[Path]:
    """The files that transformers reads a model's weights from, in the order of their names.

    `model.safetensors`, or else what its index names: the same order of choice as in transformers
    (`_get_resolved_checkpoint_files`). They need not be there.

    Args:
        name: the model, as the user wrote it.
        folder: where it lies.

    Raises:
        UserError: there is neither, or the index cannot be read.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        raise UserError(
            f"--model {name}: no *.safetensors weights in {folder} ({WEIGHTS}, or shards with "
            f"{WEIGHTS_INDEX}). Save it with save_pretrained to get them."
        )
    try:
        shards = set(json.loads(index.read_text())["weight_map"].values())
        return [folder / shard for shard in sorted(shards)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--model {name}: {index} is no index of weights.") from None

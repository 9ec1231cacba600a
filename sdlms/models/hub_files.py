"""Files of models and SAEs from the hub, and those that a model's weights are read from."""

import json
from glob import escape
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
    otherwise = f"Give a folder, or one of: {', '.join(embedded_models())}."
    return _snapshot(f"--model {name}", name, revision, patterns, otherwise)


def fetch_sae(name: str, folder: str, revision: str | None, files: list[str]) -> Path:
    """Download, or find in the cache under HF_HOME, some files of a folder of a hub repository.

    Args:
        name: of the repository.
        folder: inside it, with slashes; empty for the repository itself.
        revision: branch, tag or commit; None for the default.
        files: their names, without wildcards; those that are not there are left out.

    Returns:
        The folder in the snapshot; it need not be there.

    Raises:
        UserError: as `fetch`.
    """
    return _sae_snapshot(name, folder, revision, [escape(_inside(folder, f)) for f in files])


def fetch_sae_folders(name: str, folder: str, revision: str | None, file: str) -> list[str]:
    """The folders below one of a hub repository that hold a file of that name; it is fetched.

    Args:
        name: of the repository.
        folder: inside it, with slashes; empty for the repository itself.
        revision: branch, tag or commit; None for the default.
        file: small, and the same in each.

    Returns:
        Sorted paths inside the repository; where the hub cannot be reached, those in the cache.

    Raises:
        UserError: as `fetch`.
    """
    start = _sae_snapshot(name, folder, revision, [f"{escape(_inside(folder, ''))}*/{file}"])
    found = {path.parent.relative_to(start).as_posix() for path in start.rglob(file)} - {"."}
    return sorted(_inside(folder, path) for path in found)


def _inside(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path


def _sae_snapshot(name: str, folder: str, revision: str | None, patterns: list[str]) -> Path:
    what = f"--sae {_inside(name, folder).rstrip('/')}"
    otherwise = "Give the folder of an SAE on this disk, or fetch it where there is a network."
    return _snapshot(what, name, revision, patterns, otherwise) / folder


def _snapshot(
    what: str, name: str, revision: str | None, patterns: list[str], otherwise: str
) -> Path:
    """What the hub's own client says, in one line that starts with `what`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise UserError(
            f"{what}: the hub cannot be reached and the cache does not hold it. {otherwise}"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).splitlines()[0].strip(" .")
        raise UserError(f"{what}: the hub refuses: {reason}.") from None
    except OSError as error:
        raise UserError(f"{what}: cannot fetch it: {error}") from None


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

"""What `--sae` means for SAEs that others have trained: a folder here, or one on the hub."""

import re
from pathlib import Path

from sdlms.errors import UserError
from sdlms.models.hub_files import fetch_sae, fetch_sae_folders
from sdlms.storage.sae_files import CONFIG, WEIGHTS

# owner/repository, and the path of a folder in it.
HUB_NAME = r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:/(.+))?"
MOST_NAMED = 12


def find_sae(name: str, revision: str | None) -> Path:
    """The folder of an SAE: on this disk, or of the hub, or of its cache.

    Args:
        name: a folder that holds `cfg.json`; or a hub repository and the folder inside it, as in
            `EleutherAI/sae-pythia-70m-32k/layers.3.mlp`. A folder that exists goes first.
        revision: branch, tag or commit of the hub's repository; None for the default.

    Returns:
        It holds `cfg.json`; of the hub, that and weights are fetched and nothing else.

    Raises:
        UserError: there is no such SAE, or several; or the hub cannot be reached and has not
            cached it.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"--revision is for SAEs of the hub; '{name}' lies on this disk.")
        if (folder / CONFIG).is_file():
            return folder
        found = sorted(path.parent.as_posix() for path in folder.glob(f"**/{CONFIG}"))
        raise _not_one(name, found)
    match = re.fullmatch(HUB_NAME, name.rstrip("/"))
    if match is None or {"", ".", ".."} & set(name.rstrip("/").split("/")):
        raise UserError(
            f"--sae '{name}' is no folder that exists, and no hub name "
            "(owner/repository/folder). Give the folder that holds cfg.json."
        )
    return _find_on_hub(name, match[1], match[2] or "", revision)


def _find_on_hub(name: str, repository: str, folder: str, revision: str | None) -> Path:
    path = fetch_sae(repository, folder, revision, [CONFIG, *WEIGHTS.values()])
    if (path / CONFIG).is_file():
        return path
    inside = fetch_sae_folders(repository, folder, revision, CONFIG)
    raise _not_one(name, [f"{repository}/{found}" for found in inside])


def _not_one(name: str, found: list[str]) -> UserError:
    """There is no SAE at `name` itself, but there may be some below."""
    if not found:
        return UserError(
            f"--sae {name}: no {CONFIG} in it or below it, so no SAE (of a hub repository that "
            "cannot be reached, the cache alone is searched). Give a folder that holds one."
        )
    named = ", ".join(found[:MOST_NAMED])
    more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return UserError(f"--sae {name} holds {len(found)} SAEs, not one. Give one of: {named}{more}.")

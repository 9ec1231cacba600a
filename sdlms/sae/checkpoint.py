"""How far a training has come: a folder with a file of each member and an index of these files.

The index is replaced last: it names the files of one step, and is there only when all of them are.
No more than one member is in memory twice.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdlms.errors import ANEW, UserError
from sdlms.sae.pupil import Pupil
from sdlms.storage.files import write_atomically
from sdlms.storage.tensors import read_tensors, write_tensors

INDEX = "index.json"
PROGRESS = "progress"


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder holds one."""
    return (folder / INDEX).exists()


def write_checkpoint(folder: Path, n_done: int, pupils: Sequence[Pupil]) -> None:
    """Write everything that the future depends on; what was there before stays until it is whole.

    Args:
        folder: made if need be; it holds nothing else.
        n_done: updates so far.
        pupils: all members, between two updates.
    """
    folder.mkdir(exist_ok=True, parents=True)
    files = {pupil.key: f"{n_done}_{i}.safetensors" for i, pupil in enumerate(pupils)}
    for pupil in pupils:
        arrays, text = pupil.saved()
        write_tensors(folder / files[pupil.key], arrays, {PROGRESS: text})
    index = {"step": n_done, "files": files}
    write_atomically(folder / INDEX, json.dumps(index, sort_keys=True).encode())
    for path in list(folder.iterdir()):
        if path.name not in (INDEX, *files.values()):
            path.unlink()


def read_checkpoint(folder: Path, pupils: Sequence[Pupil]) -> int:
    """Take up what was written.

    Args:
        folder: that holds a checkpoint of the same members.
        pupils: all members, anew; they go on from there.

    Returns:
        Updates so far.

    Raises:
        UserError: a file is missing or damaged.
    """
    index = _read_index(folder / INDEX)
    for pupil in pupils:
        arrays, texts = read_tensors(folder / index["files"][pupil.key])
        pupil.restore(arrays, texts[PROGRESS])
    return int(index["step"])


def _read_index(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote last."""
    try:
        index: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). {ANEW}") from None
    return index

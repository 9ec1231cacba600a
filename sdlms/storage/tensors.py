"""Named arrays in one safetensors file, without pickle; equal arrays give equal bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sdlms.errors import UserError
from sdlms.storage.files import write_atomically

# The format keeps metadata in no certain order, so all of it goes under one key.
METADATA_KEY = "metadata"


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays under their names; `path` holds either the old or the new file.

    Args:
        path: of the file.
        tensors: any numeric dtype that safetensors knows; the order does not matter.
        metadata: kept beside them.
    """
    contiguous = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    text = json.dumps(dict(metadata), sort_keys=True)
    write_atomically(path, save(contiguous, {METADATA_KEY: text}))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file by name, in memory, and its metadata (empty where there is none).

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or damaged ({error}).") from error
    return tensors, json.loads(metadata.get(METADATA_KEY, "{}"))

"""Where files are kept that can be made again: cached activations, compiled kernels."""

import os
from pathlib import Path

VARIABLE = "SDLMS_CACHE"


def cache_folder() -> Path:
    """`SDLMS_CACHE`, or `sdlms` in the user's cache folder.

    Raises:
        RuntimeError: neither is named, and the user has no home.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sdlms"

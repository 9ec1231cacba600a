"""Where files are kept that can be made again: cached activations, compiled kernels."""

import contextlib
import os
from pathlib import Path

from sdlms.errors import UserError

VARIABLE = "SDLMS_CACHE"


def cache_folder() -> Path:
    """`SDLMS_CACHE`, or `sdlms` in the user's cache folder; an absolute path.

    Raises:
        UserError: neither is named, and the user has no home.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache").absolute() / "sdlms"


def _home() -> Path:
    """The user's home. An empty HOME names none, though Python reads it as `/`."""
    with contextlib.suppress(RuntimeError):
        if os.environ.get("HOME") != "":
            return Path.home()
    raise UserError(f"there is no home folder for the cache. Set {VARIABLE} to a folder.")

"""What a run says about where it was made: versions, commit, host."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "h5py", "numpy")


def package_version() -> str:
    """The installed version of sdlms."""
    return metadata.version("sdlms")


def provenance() -> dict[str, Any]:
    """Version, git state, package versions, interpreter and host, for the `start` record."""
    return {
        "version": package_version(),
        "git": git_state(Path(__file__).resolve().parent),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "argv": sys.argv,
    }


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that holds the package; None when it is installed."""
    if not (package.parent / ".git").exists():
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """One git command's output; None where git is missing or refuses."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None

"""What a run says about where it was made: versions, commit, host."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

MATTERING = ("torch", "transformers", "tokenizers", "safetensors", "h5py", "numpy")  # to every run
PACKAGES = (
    *MATTERING,
    *("accelerate", "datasets", "huggingface_hub", "igraph", "networkx", "pyarrow"),
    *("sae-lens", "scikit-learn", "scipy"),
)


def package_version() -> str:
    """The installed version of sdlms."""
    return metadata.version("sdlms")


def provenance() -> dict[str, Any]:
    """Version, git state, package versions, interpreter and host, for the `start` record."""
    return {
        "version": package_version(),
        "git": git_state(Path(__file__).resolve().parents[1]),
        "packages": {name: _version_of(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        # Arguments need not be UTF-8, `meta.jsonl` is.
        "argv": [word.encode(errors="backslashreplace").decode() for word in sys.argv],
    }


def _version_of(package: str) -> str | None:
    """The installed version; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def mattering(made_by: dict[str, Any]) -> dict[str, Any]:
    """Of the package versions in a `start` record, those that `--resume` asks to be the same."""
    packages = made_by.get("packages") or {}
    return {name: packages.get(name) for name in MATTERING}


def git_state(package: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that holds the package; None when it is installed.

    Dirty are changes of any file that git knows, and files in the package that it does not know.
    """
    if not (package.parent / ".git").exists():
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    unknown = _git(package, "ls-files", "--others", "--exclude-standard")
    if commit is None or changes is None or unknown is None:
        return None
    return {"commit": commit, "dirty": bool(changes or unknown)}


def _git(folder: Path, *words: str) -> str | None:
    """One git command's output; None where git is missing or refuses."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    # Inside a git hook these name another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        result = subprocess.run(command, capture_output=True, check=False, env=environment)
    except OSError:
        return None
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else None

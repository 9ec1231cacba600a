"""Where the files that ship with the package are: embedded models, task data, configs."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def asset_folder(kind: str) -> Path:
    """The folder of `models`, `data` or `configs`.

    A wheel holds all three under `sdlms/assets/`; a checkout keeps `data/` and `configs/` at
    its root.
    """
    inside = PACKAGE / "assets" / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind

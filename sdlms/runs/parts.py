"""Results that are worked out one part after another, each kept until the run is complete."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdlms.errors import ANEW, UserError
from sdlms.storage.files import write_atomically

Part = dict[str, Any]


class Parts:
    """Finished parts in a scratch folder: what a killed run had worked out is not done again."""

    def __init__(self, folder: Path) -> None:
        """Keep parts in `folder`, which is made when the first of them is there."""
        self._folder = folder

    def has(self, name: str) -> bool:
        """Whether a part is there."""
        return self._path(name).exists()

    def once(self, name: str, work_out: Callable[[], Part]) -> Part:
        """A part, from the disk where it is there, otherwise worked out and kept.

        Args:
            name: a file name without its ending; the same work must have the same name.
            work_out: gives what JSON holds: dictionaries with text as keys, lists, text, numbers
                (NaN too), true, false and null.

        Returns:
            What JSON gives back, so that a resumed run sees what an uninterrupted one sees.

        Raises:
            UserError: a part is damaged, or cannot be written.
        """
        path = self._path(name)
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(work_out(), sort_keys=True).encode())
        try:
            part: Part = json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}). {ANEW}") from None
        return part

    def _path(self, name: str) -> Path:
        """Where a part is kept."""
        return self._folder / f"{name}.json"

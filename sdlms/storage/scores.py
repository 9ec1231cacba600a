"""`scores.h5`, version 1: what probes say of examples, kind by kind, while a run is written.

```
/<kind>/probabilities   [member * example]  float32, of class 1; one member after another
/<kind>/converged       [member]            uint8
/<kind>/done            [1]                 uint8, 1 once all of it is there
```
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.storage.flat import Array, Blank, FlatWriter, create_flat

FORMAT = "sdlms scores"
VERSION = 1


class Scores:
    """Writes and reads one file; examples of a member in any order, in pieces."""

    def __init__(self, path: Path, kinds: Sequence[str], n_members: int, n_examples: int) -> None:
        """Open the file, or make it."""
        self.path, self.n_members, self.n_examples = path, n_members, n_examples
        if not path.exists():
            datasets: dict[str, Array | Blank] = {}
            for kind in kinds:
                size = (n_members * n_examples,)
                datasets[f"/{kind}/probabilities"] = Blank(size, np.dtype("float32"))
                datasets[f"/{kind}/converged"] = np.zeros(n_members, dtype=np.uint8)
                datasets[f"/{kind}/done"] = np.zeros(1, dtype=np.uint8)
            create_flat(path, datasets, {"format": FORMAT, "version": VERSION})
        self._writer = FlatWriter(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def write(self, kind: str, member: int, first: int, values: NDArray[np.float32]) -> None:
        """Note what one probe says of consecutive examples.

        Raises:
            ValueError: there are no such examples, or there is no such probe.
        """
        if not 0 <= first <= self.n_examples - len(values):
            raise ValueError(f"examples {first}+{len(values)} are outside {self.n_examples}")
        self._writer.write(f"/{kind}/probabilities", member * self.n_examples + first, values)

    def write_at(
        self,
        kind: str,
        member: int,
        examples: NDArray[np.int64],
        values: NDArray[np.float32],
    ) -> None:
        """Note what one probe says of ascending examples, run by run of consecutive ones.

        Raises:
            ValueError: as in `write`, or not one value for each example.
        """
        breaks = np.flatnonzero(np.diff(examples) != 1) + 1
        runs = zip(np.split(examples, breaks), np.split(values, breaks), strict=True)
        if len(examples) != len(values):
            raise ValueError(f"{len(values)} values for {len(examples)} examples")
        for run, own in runs:
            if len(run):
                self.write(kind, member, int(run[0]), own)

    def finish(self, kind: str, converged: Sequence[bool] | NDArray[np.bool_]) -> None:
        """Say that a kind is complete, once everything of it has reached the disk."""
        self._writer.write(f"/{kind}/converged", 0, np.asarray(converged, dtype=np.uint8))
        self._writer.sync()
        self._writer.write(f"/{kind}/done", 0, np.ones(1, dtype=np.uint8))
        self._writer.sync()

    def is_done(self, kind: str) -> bool:
        """Whether a kind is complete."""
        with h5py.File(self.path, "r") as file:
            return bool(file[f"/{kind}/done"][0])

    def read(self, kind: str, member: int) -> NDArray[np.float32]:
        """`[example]` what one probe says; only what was written means anything."""
        first = member * self.n_examples
        with h5py.File(self.path, "r") as file:
            values: NDArray[np.float32] = file[f"/{kind}/probabilities"][
                first : first + self.n_examples
            ]
        return values

    def converged(self, kind: str) -> NDArray[np.bool_]:
        """`[member]` whether each solver came to its end."""
        with h5py.File(self.path, "r") as file:
            converged: NDArray[np.bool_] = file[f"/{kind}/converged"][:].astype(bool)
        return converged

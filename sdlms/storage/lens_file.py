"""`lens.h5`, version 1: what a model would say after each of its layers, token by token.

```
/tokens/ids, /mask                  [token]                    int32; uint8, 0 = special or skipped
/tokens/offsets                     [document + 1]             int64
/documents/id, /task                [document]                 fixed-length UTF-8 bytes
/states/site, /layer                [state]                    bytes; int32
/<lens>/top_ids                     [token, state, k]          int32, the most probable tokens
/<lens>/top_probabilities           [token, state, k]          float32, falling
/<lens>/entropy_nats                [token, state]             float32
/<lens>/kl_to_final_nats            [token, state]             float32, KL(final || state)
/<lens>/next_log_probability        [token, state]             float32, NaN at a document's end
/<lens>/next_rank                   [token, state]             int32 from 1, 0 at a document's end
/<lens>/decided_at                  [token]                    int32, a layer; -1 is the embedding
/<lens>/target_log_probability      [token, state, target]     float32, only where targets are named
/<lens>/target_rank                 [token, state, target]     int32 from 1
/targets/ids, /text                 [target]                   int32; bytes
/vocabulary/bytes, /offsets         [byte], [token_id + 1]     each token's text, UTF-8
```
A row predicts the token after its own. File attributes: format, version, model, revision, lenses,
n_layers, dtype, unembed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage.activations import read_rows, row_datasets
from sdlms.storage.flat import Array, Attributes, Blank, create_flat
from sdlms.storage.rows import Rows

FORMAT = "sdlms lens"
VERSION = 1
Type = np.dtype[np.generic]
Floats: Type = np.dtype("float32")
Integers: Type = np.dtype("int32")
PER_STATE = {
    "entropy_nats": Floats,
    "kl_to_final_nats": Floats,
    "next_log_probability": Floats,
    "next_rank": Integers,
}
PER_TOP = {"top_ids": Integers, "top_probabilities": Floats}
PER_TARGET = {"target_log_probability": Floats, "target_rank": Integers}
DECIDED_AT = "decided_at"


class Layout(NamedTuple):
    """One data set of a lens: its shape behind the token axis, and its type."""

    shape: tuple[int, ...]
    dtype: Type


@dataclass(frozen=True)
class LensHeader:
    """What was measured.

    Attributes:
        model: its name; `revision` is the hub commit or empty.
        n_layers: blocks of the model.
        lenses: `logit`, and `tuned` where there is one.
        states: site and layer of each state in the order of the forward pass; the last is the
            final one.
        n_top: tokens kept per row.
        targets: id and text of the tokens that were asked for by name.
        vocabulary: the text of every token id.
        dtype: in which the model computed.
        unembed: in which it was unembedded.
    """

    model: str
    revision: str
    n_layers: int
    lenses: tuple[str, ...]
    states: tuple[tuple[str, int], ...]
    n_top: int
    targets: tuple[tuple[int, str], ...]
    vocabulary: tuple[str, ...]
    dtype: str
    unembed: str

    @property
    def layouts(self) -> dict[str, Layout]:
        """Each data set of a lens."""
        n_states, n_targets = len(self.states), len(self.targets)
        parts: list[tuple[dict[str, Type], tuple[int, ...]]] = [
            (PER_TOP, (n_states, self.n_top)),
            (PER_STATE, (n_states,)),
        ]
        if n_targets:  # an empty data set would need a path of its own
            parts.append((PER_TARGET, (n_states, n_targets)))
        found = {
            name: Layout(shape, dtype) for named, shape in parts for name, dtype in named.items()
        }
        return {**found, DECIDED_AT: Layout((), Integers)}


def lens_dataset(lens: str, name: str) -> str:
    """Where one quantity of one lens lies."""
    return f"/{lens}/{name}"


def predicted_lens_bytes(header: LensHeader, n_tokens: int) -> int:
    """Bytes of the rows themselves."""
    per_token = sum(
        int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for shape, dtype in header.layouts.values()
    )
    return n_tokens * per_token * len(header.lenses)


def create_lens(path: Path, header: LensHeader, rows: Rows) -> None:
    """Allocate the file; rows are then written with a `FlatWriter`.

    Raises:
        OSError: the disk is full.
    """
    texts = [text.encode() for text in header.vocabulary]
    datasets: dict[str, Array | Blank] = {
        **row_datasets(rows),
        "/states/site": np.array([site.encode() for site, _ in header.states]),
        "/states/layer": np.array([layer for _, layer in header.states], dtype=np.int32),
        "/vocabulary/bytes": np.frombuffer(b"".join(texts), dtype=np.uint8),
        "/vocabulary/offsets": np.cumsum([0, *map(len, texts)], dtype=np.int64),
    }
    if header.targets:
        datasets["/targets/ids"] = np.array([number for number, _ in header.targets], np.int32)
        datasets["/targets/text"] = np.array([text.encode() for _, text in header.targets])
    for lens in header.lenses:
        for name, (shape, dtype) in header.layouts.items():
            datasets[lens_dataset(lens, name)] = Blank((rows.n_tokens, *shape), dtype)
    attributes: Attributes = {
        "format": FORMAT,
        "version": VERSION,
        "model": header.model,
        "revision": header.revision,
        "lenses": list(header.lenses),
        "n_layers": header.n_layers,
        "dtype": header.dtype,
        "unembed": header.unembed,
    }
    create_flat(path, datasets, attributes)


class LensReader:
    """Reads `lens.h5` by rows; nothing is loaded before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its format.

        Raises:
            UserError: it cannot be opened, has another format, or a version that this sdlms does
                not know.
        """
        try:
            self._file = h5py.File(path, "r")
        except OSError:
            raise UserError(f"{path}: not an HDF5 file, or damaged.") from None
        found = self._file.attrs.get("format"), self._file.attrs.get("version")
        if found != (FORMAT, VERSION):
            self._file.close()
            raise UserError(
                f"{path} is '{found[0]}' version {found[1]}; this sdlms reads '{FORMAT}' version "
                f"{VERSION}."
            )
        self.lenses = tuple(str(name) for name in self._file.attrs["lenses"])
        self.n_layers = int(self._file.attrs["n_layers"])
        self.model = str(self._file.attrs["model"])
        sites, layers = self._file["/states/site"][:], self._file["/states/layer"][:]
        self.states = tuple(
            (site.decode(), int(layer)) for site, layer in zip(sites, layers, strict=True)
        )
        self.offsets: NDArray[np.int64] = self._file["/tokens/offsets"][:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self) -> Rows:
        """Tokens and documents."""
        return read_rows(self._file)

    @property
    def targets(self) -> list[tuple[int, str]]:
        """Id and text of the tokens that were asked for by name."""
        if "/targets" not in self._file:
            return []
        ids, texts = self._file["/targets/ids"][:], self._file["/targets/text"][:]
        return [(int(number), text.decode()) for number, text in zip(ids, texts, strict=True)]

    def read(self, lens: str, name: str, first: int, last: int) -> Array:
        """Rows `first .. last` of one quantity, `[token, ...]`.

        Raises:
            UserError: the run was made without this lens, or without targets.
        """
        place = lens_dataset(lens, name)
        if place not in self._file:
            held = ", ".join(self.lenses)
            raise UserError(f"{self._file.filename} holds no {place}; its lenses are: {held}.")
        rows: Array = self._file[place][first:last]
        return rows

    def texts(self, token_ids: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """The text of tokens, one by one."""
        data, offsets = self._file["/vocabulary/bytes"], self._file["/vocabulary/offsets"]
        places = offsets[:]
        content = data[:].tobytes() if data.size else b""
        return [
            content[places[number] : places[number + 1]].decode() for number in map(int, token_ids)
        ]

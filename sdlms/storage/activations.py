"""`activations.h5`, version 1: one contiguous `[token, unit]` data set per site and layer.

```
/<site>/layer_<n>      [token, unit]   float16, float32, or bfloat16 as uint16 (attribute dtype)
/tokens/ids            [token]         int32
/tokens/mask           [token]         uint8, 0 = special token or skipped position
/tokens/offsets        [document + 1]  int64: document d owns rows offsets[d] .. offsets[d + 1]
/documents/id, /task   [document]      fixed-length UTF-8 bytes
```
File attributes: format, version, model, revision, sites, layers, activation_function, gated,
control.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage.flat import Array, Blank, create_flat

FORMAT = "sdlms activations"
VERSION = 1
StoreDtype = Literal["float16", "float32", "bfloat16"]
Key = tuple[str, int]  # site, layer


@dataclass(frozen=True)
class Rows:
    """Which rows belong to which document; the same in every file of a run.

    Attributes:
        ids: `[token]` int32.
        mask: `[token]` uint8, 1 where statistics read.
        offsets: `[document + 1]` int64.
        document_ids: sha256 prefix of each document's text.
        document_tasks: each document's task.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    document_ids: list[str]
    document_tasks: list[str]

    @property
    def n_tokens(self) -> int:
        """Rows in all."""
        return len(self.ids)

    @property
    def n_documents(self) -> int:
        """Documents in all."""
        return len(self.document_ids)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """`[document]` tokens of each document."""
        return np.diff(self.offsets)

    def subset(self, documents: list[int]) -> "Rows":
        """The rows of some documents, in that order."""
        pieces = [slice(self.offsets[d], self.offsets[d + 1]) for d in documents]
        return Rows(
            ids=np.concatenate([self.ids[piece] for piece in pieces]),
            mask=np.concatenate([self.mask[piece] for piece in pieces]),
            offsets=np.concatenate([[0], np.cumsum(self.lengths[documents])]).astype(np.int64),
            document_ids=[self.document_ids[d] for d in documents],
            document_tasks=[self.document_tasks[d] for d in documents],
        )


@dataclass(frozen=True)
class Header:
    """What the activations are of.

    Attributes:
        model: its name; `revision` is the hub commit or empty.
        units: `[site, layer] -> width`.
        store_dtype: the stored type.
        control: `none`, or what was done to the weights (`reinit`) or the tokens
            (`permute-tokens`) so that there is something to compare with.
    """

    model: str
    revision: str
    units: dict[Key, int]
    store_dtype: dict[str, StoreDtype]  # by site
    activation_function: str
    gated: bool
    control: str = "none"

    @property
    def sites(self) -> list[str]:
        """The sites, in order."""
        return list(dict.fromkeys(site for site, _ in self.units))

    @property
    def layers(self) -> list[int]:
        """The layers, ascending."""
        return sorted({layer for _, layer in self.units})


def dataset_name(key: Key) -> str:
    """Where one site and layer lies."""
    return f"/{key[0]}/layer_{key[1]}"


def numpy_dtype(store_dtype: StoreDtype) -> np.dtype[np.generic]:
    """The type on disk; bfloat16 lies there as its 16 bits."""
    return np.dtype("uint16" if store_dtype == "bfloat16" else store_dtype)


def row_datasets(rows: Rows) -> dict[str, Array]:
    """The data sets that say which document a row belongs to."""
    return {
        "/tokens/ids": rows.ids,
        "/tokens/mask": rows.mask,
        "/tokens/offsets": rows.offsets,
        **document_datasets(rows),
    }


def document_datasets(rows: Rows) -> dict[str, Array]:
    """The data sets that name the documents."""
    return {
        "/documents/id": np.array([text.encode() for text in rows.document_ids]),
        "/documents/task": np.array([text.encode() for text in rows.document_tasks]),
    }


def predicted_bytes(header: Header, n_tokens: int) -> int:
    """Bytes of the activations themselves."""
    return sum(
        n_tokens * width * numpy_dtype(header.store_dtype[site]).itemsize
        for (site, _), width in header.units.items()
    )


def create_activations(path: Path, header: Header, rows: Rows) -> None:
    """Allocate the file; the activations are then written with a `FlatWriter`."""
    datasets: dict[str, Array | Blank] = dict(row_datasets(rows))
    for key, width in header.units.items():
        store_dtype = header.store_dtype[key[0]]
        datasets[dataset_name(key)] = Blank(
            (rows.n_tokens, width), numpy_dtype(store_dtype), {"dtype": store_dtype}
        )
    create_flat(
        path,
        datasets,
        {
            "format": FORMAT,
            "version": VERSION,
            "model": header.model,
            "revision": header.revision,
            "sites": header.sites,
            "layers": header.layers,
            "activation_function": header.activation_function,
            "gated": header.gated,
            "control": header.control,
        },
    )


class ActivationsReader:
    """Reads `activations.h5` by rows; nothing is loaded before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its format.

        Raises:
            UserError: another format, or a version that this sdlms does not know.
        """
        self._file = h5py.File(path, "r")
        found = self._file.attrs.get("format"), self._file.attrs.get("version")
        if found != (FORMAT, VERSION):
            self._file.close()
            raise UserError(
                f"{path} is '{found[0]}' version {found[1]}; this sdlms reads '{FORMAT}' "
                f"version {VERSION}."
            )
        self.attributes = dict(self._file.attrs)
        self._data: dict[Key, h5py.Dataset] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self) -> Rows:
        """Tokens and documents."""
        return Rows(
            ids=self._file["/tokens/ids"][:],
            mask=self._file["/tokens/mask"][:],
            offsets=self._file["/tokens/offsets"][:],
            document_ids=[text.decode() for text in self._file["/documents/id"][:]],
            document_tasks=[text.decode() for text in self._file["/documents/task"][:]],
        )

    def store_dtype(self, key: Key) -> StoreDtype:
        """The stored type of one site and layer."""
        found: StoreDtype = self._file[dataset_name(key)].attrs["dtype"]
        return found

    def read(self, key: Key, first: int, last: int) -> Array:
        """Rows `first .. last` as they lie on disk, `[token, unit]`; bfloat16 as uint16."""
        if key not in self._data:  # h5py takes 0.1 ms to look a data set up
            self._data[key] = self._file[dataset_name(key)]
        rows: Array = self._data[key][first:last]
        return rows


def document_blocks(offsets: NDArray[np.int64], block_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut documents into runs `(first, last)` of at most `block_tokens` rows, at least one each."""
    first = 0
    n_documents = len(offsets) - 1
    while first < n_documents:
        limit = offsets[first] + block_tokens
        last = int(np.searchsorted(offsets, limit, side="right")) - 1
        last = max(last, first + 1)
        yield first, last
        first = last

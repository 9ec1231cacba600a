"""`activations.h5`, version 1: one contiguous `[token, unit]` data set per site and layer.

```
/<site>/layer_<n>      [token, unit]   float16, float32, or bfloat16 as uint16 (attribute dtype)
/tokens/ids            [token]         int32
/tokens/mask           [token]         uint8, 0 = special token or skipped position
/tokens/offsets        [document + 1]  int64: document d owns rows offsets[d] .. offsets[d + 1]
/documents/id, /task   [document]      fixed-length UTF-8 bytes
```
File attributes: format, version, model, revision, sites, layers, activation_function, gated,
control, dims, pools, origin.

Pooled activations lie in the same file: without tokens (`dims` has no `s`) rows are documents, and
`/tokens` is absent; what was pooled over layers lies in `/<site>/layers_pooled`, one layer that was
selected alone in its own data set (`dims` has no `l`). `pools` says how, in order: `mean s`.
A file without `dims` is `blsh`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.storage.flat import Array, Blank, create_flat
from sdlms.storage.rows import Rows

FORMAT = "sdlms activations"
VERSION = 1
StoreDtype = Literal["float16", "float32", "bfloat16"]
Key = tuple[str, int]  # site, layer
POOLED = -1  # in the place of the layer: what was pooled over layers


@dataclass(frozen=True)
class Header:
    """What the activations are of.

    Attributes:
        model: its name; `revision` is the hub commit or empty.
        units: `[site, layer] -> width`.
        store_dtype: the stored type.
        control: `none`, or what was done to the weights (`reinit`) or the tokens
            (`permute-tokens`) so that there is something to compare with.
        dims: axes, of b document, l layer, s token, h unit; without s rows are documents.
        pools: what was pooled before, in order: `mean s`, `max l`.
        pooled_layers: the layers that were pooled, where some were.
        origin: fingerprint of what they were made of, where it was taken.
    """

    model: str
    revision: str
    units: dict[Key, int]
    store_dtype: dict[str, StoreDtype]  # by site
    activation_function: str
    gated: bool
    control: str = "none"
    dims: str = "blsh"
    pools: tuple[str, ...] = ()
    pooled_layers: tuple[int, ...] = ()
    origin: str = ""

    @property
    def sites(self) -> list[str]:
        """The sites, in order."""
        return list(dict.fromkeys(site for site, _ in self.units))

    @property
    def layers(self) -> list[int]:
        """The layers, in order; where they were pooled, those."""
        named = [layer for _, layer in self.units if layer != POOLED]
        return list(dict.fromkeys([*named, *self.pooled_layers]))


def dataset_name(key: Key) -> str:
    """Where one site and layer lies."""
    return f"/{key[0]}/layers_pooled" if key[1] == POOLED else f"/{key[0]}/layer_{key[1]}"


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


def read_rows(file: h5py.File) -> Rows:
    """Tokens and documents, from the data sets that `row_datasets` names."""
    return Rows(
        ids=file["/tokens/ids"][:],
        mask=file["/tokens/mask"][:],
        offsets=file["/tokens/offsets"][:],
        document_ids=[text.decode() for text in file["/documents/id"][:]],
        document_tasks=[text.decode() for text in file["/documents/task"][:]],
    )


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
    tokens = "s" in header.dims
    datasets: dict[str, Array | Blank] = dict(
        row_datasets(rows) if tokens else document_datasets(rows)
    )
    n_rows = rows.n_tokens if tokens else rows.n_documents
    for key, width in header.units.items():
        store_dtype = header.store_dtype[key[0]]
        datasets[dataset_name(key)] = Blank(
            (n_rows, width), numpy_dtype(store_dtype), {"dtype": store_dtype}
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
            "dims": header.dims,
            "pools": list(header.pools),
            "origin": header.origin,
        },
    )


class Place(NamedTuple):
    """Where the rows of a data set lie in its file, in bytes, and how many there are."""

    offset: int
    row_bytes: int
    n_rows: int


class ActivationsReader:
    """Reads `activations.h5` by rows; nothing is loaded before it is asked for."""

    format = FORMAT

    def __init__(self, path: Path) -> None:
        """Open the file and check its format.

        Raises:
            UserError: another format, or a version that this sdlms does not know.
        """
        self._file = h5py.File(path, "r")
        found = self._file.attrs.get("format"), self._file.attrs.get("version")
        if found != (self.format, VERSION):
            self._file.close()
            raise UserError(
                f"{path} is '{found[0]}' version {found[1]}; this sdlms reads '{self.format}' "
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
        return read_rows(self._file)

    def offsets(self) -> NDArray[np.int64]:
        """`[document + 1]`, the rows of each document; without tokens it has one."""
        if "/tokens" not in self._file:
            return np.arange(len(self._file["/documents/id"]) + 1, dtype=np.int64)
        offsets: NDArray[np.int64] = self._file["/tokens/offsets"][:]
        return offsets

    def documents(self, name: Literal["id", "task"]) -> list[str]:
        """Each document's id or task."""
        return [text.decode() for text in self._file[f"/documents/{name}"][:]]

    def header(self) -> Header:
        """What the activations are of."""
        found = self.attributes
        layers = [int(layer) for layer in found["layers"]]
        sites = [str(site) for site in found["sites"]]
        pooled = dataset_name((sites[0], POOLED)) in self._file
        keys = [
            key
            for site in sites
            for key in ([(site, POOLED)] if pooled else [(site, layer) for layer in layers])
        ]
        units = {key: int(self._file[dataset_name(key)].shape[1]) for key in keys}
        return Header(
            model=str(found["model"]),
            revision=str(found["revision"]),
            units=units,
            store_dtype={site: self.store_dtype((site, layer)) for site, layer in units},
            activation_function=str(found["activation_function"]),
            gated=bool(found["gated"]),
            control=str(found["control"]),
            dims=str(found.get("dims", "blsh")),
            pools=tuple(str(pool) for pool in found.get("pools", ())),
            pooled_layers=tuple(layers) if pooled else (),
            origin=str(found.get("origin", "")),
        )

    def data_names(self, header: Header) -> list[str]:
        """The data sets that hold activations."""
        return [dataset_name(key) for key in header.units]

    def place(self, name: str) -> "Place":
        """Where a data set lies in the file.

        Raises:
            UserError: it is chunked or compressed.
        """
        data = self._file[name]
        offset = data.id.get_offset()
        if offset is None and data.size:
            raise UserError(
                f"{self._file.filename}: {name} is chunked or compressed; activations are read "
                "where they lie. Undo it: h5repack -l CONTI -f NONE IN OUT"
            )
        row_bytes = int(np.prod(data.shape[1:])) * data.dtype.itemsize
        return Place(int(offset or 0), row_bytes, len(data))

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

"""`latents.h5`, version 1: what each latent of some sparse autoencoders fires on.

```
/documents/id, /task                   [document]    fixed-length UTF-8 bytes
/tasks                                 [task]        names, in the order of their first document
/log_density_edges                     [25]          float64, log10 of a firing rate, -6 to 0
/<site>/layer_<n>/<member>/
    firing_count       [latent]            int64, tokens on which it is above 0
    firing_rate        [latent]            float64, of all tokens
    mean_activation    [latent]            float64, where it fires; NaN where it never does
    document_counts    [document, latent]  uint32, firing_count by document
    task_counts        [task, latent]      int64, firing_count by task
    top_activation     [latent, 10]        float32, the largest of a document, falling; 0 for none
    top_document       [latent, 10]        int32, which, all of them different; -1 for none
    top_position       [latent, 10]        int32, token of that document, all counted; -1 for none
    neighbour          [latent, 5]         int32, by cosine of decoder rows, falling; -1 for none
    neighbour_cosine   [latent, 5]         float32; NaN for none
    log_density_count  [25]                int64, first those that never fire, then each bin
```
File attributes: format, version, model, revision, sae; and a list entry per member in sites,
layers, members and widths. Documents are those that were measured; tokens those of mask 1.

Bin i of the histogram is log_density_edges[i] <= log10(rate) < log_density_edges[i + 1] and stands
at i + 1; the first also takes what is below it, the last its upper edge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError, did_you_mean
from sdlms.storage.files import unreadable, write_errors
from sdlms.storage.flat import Array, Attributes, Blank, FlatWriter, create_flat

FORMAT = "sdlms latents"
VERSION = 1
N_TOP = 10  # documents of each latent
N_NEIGHBOURS = 5
LOG_DENSITY_EDGES: NDArray[np.float64] = np.arange(-24, 1) / 4
N_DENSITIES = len(LOG_DENSITY_EDGES)  # one count less than edges, and one for those that never fire


class Column(NamedTuple):
    """An array of each member; axes are `latent`, `document`, `task` or numbers."""

    dtype: str
    axes: tuple[str | int, ...]


COLUMNS = {
    "firing_count": Column("int64", ("latent",)),
    "firing_rate": Column("float64", ("latent",)),
    "mean_activation": Column("float64", ("latent",)),
    "document_counts": Column("uint32", ("document", "latent")),
    "task_counts": Column("int64", ("task", "latent")),
    "top_activation": Column("float32", ("latent", N_TOP)),
    "top_document": Column("int32", ("latent", N_TOP)),
    "top_position": Column("int32", ("latent", N_TOP)),
    "neighbour": Column("int32", ("latent", N_NEIGHBOURS)),
    "neighbour_cosine": Column("float32", ("latent", N_NEIGHBOURS)),
    "log_density_count": Column("int64", (N_DENSITIES,)),
}


class LatentsMember(NamedTuple):
    """One autoencoder."""

    site: str
    layer: int
    name: str

    @property
    def group(self) -> str:
        """Where its arrays lie."""
        return f"/{self.site}/layer_{self.layer}/{self.name}"


@dataclass(frozen=True)
class LatentsHeader:
    """What the file is about.

    Attributes:
        model: its name; `revision` is the hub commit or empty.
        sae: the run or folder that the autoencoders lie in; empty for the run of the file itself.
        widths: latents of each member, in the order in which members are listed.
        document_ids: of the documents that were measured.
        document_tasks: of each.
    """

    model: str
    revision: str
    sae: str
    widths: Mapping[LatentsMember, int]
    document_ids: Sequence[str]
    document_tasks: Sequence[str]

    def shapes(self, member: LatentsMember) -> dict[str, tuple[int, ...]]:
        """The shape of each array of a member."""
        sizes = {
            "latent": self.widths[member],
            "document": len(self.document_ids),
            "task": len(task_names(self.document_tasks)),
        }
        return {
            name: tuple(sizes[axis] if isinstance(axis, str) else axis for axis in column.axes)
            for name, column in COLUMNS.items()
        }


def task_names(document_tasks: Sequence[str]) -> list[str]:
    """Each task once, in the order of its first document: rows of `task_counts`."""
    return list(dict.fromkeys(document_tasks))


def predicted_bytes(header: LatentsHeader) -> int:
    """Bytes of the arrays of all members."""
    return sum(
        int(np.prod(shape, dtype=np.int64)) * np.dtype(COLUMNS[name].dtype).itemsize
        for member in header.widths
        for name, shape in header.shapes(member).items()
    )


def create_latents(path: Path, header: LatentsHeader) -> None:
    """Allocate the file; members are then written one by one with `write_member`.

    Raises:
        UserError: the disk is full.
    """
    datasets: dict[str, Array | Blank] = {
        "/documents/id": _texts(header.document_ids),
        "/documents/task": _texts(header.document_tasks),
        "/tasks": _texts(task_names(header.document_tasks)),
        "/log_density_edges": LOG_DENSITY_EDGES,
    }
    for member in header.widths:
        for name, shape in header.shapes(member).items():
            datasets[f"{member.group}/{name}"] = Blank(shape, np.dtype(COLUMNS[name].dtype))
    attributes: Attributes = {
        "format": FORMAT,
        "version": VERSION,
        "model": header.model,
        "revision": header.revision,
        "sae": header.sae,
        "sites": [member.site for member in header.widths],
        "layers": [member.layer for member in header.widths],
        "members": [member.name for member in header.widths],
        "widths": list(header.widths.values()),
    }
    with write_errors(path):
        create_flat(path, datasets, attributes)


def _texts(texts: Sequence[str]) -> Array | Blank:
    """Fixed-length bytes; of an empty list there is no longest."""
    if not texts:
        return Blank((0,), np.dtype("S1"))
    return np.array([text.encode() for text in texts])


def write_member(
    writer: FlatWriter, header: LatentsHeader, member: LatentsMember, arrays: Mapping[str, Array]
) -> None:
    """Write every array of one member.

    Args:
        writer: of the file that `create_latents` made.
        header: what it was made with.
        member: one of its members.
        arrays: by their names above.

    Raises:
        UserError: the disk is full.
        ValueError: an array is missing, unknown, or has another type or shape.
    """
    if set(arrays) != set(COLUMNS):
        raise ValueError(f"got {sorted(arrays)}, a member has {sorted(COLUMNS)}")
    for name, shape in header.shapes(member).items():
        found = arrays[name]
        if found.shape != shape or found.dtype != COLUMNS[name].dtype:
            expected = f"{COLUMNS[name].dtype} {shape}"
            raise ValueError(f"{name} is {expected}, got {found.dtype} {found.shape}")
        writer.write(f"{member.group}/{name}", 0, found)


class LatentsReader:
    """Reads `latents.h5` array by array; nothing is loaded before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its format.

        Raises:
            UserError: it cannot be read, or is of another format or version.
        """
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise unreadable(path, error) from None
        found = self._file.attrs.get("format"), self._file.attrs.get("version")
        if found != (FORMAT, VERSION):
            self._file.close()
            raise UserError(
                f"{path} is '{found[0]}' version {found[1]}; this sdlms reads '{FORMAT}' "
                f"version {VERSION}."
            )
        self.attributes = dict(self._file.attrs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def members(self) -> list[LatentsMember]:
        """The autoencoders, in the order in which they were listed."""
        listed = (self.attributes[name] for name in ("sites", "layers", "members"))
        return [
            LatentsMember(str(site), int(layer), str(name))
            for site, layer, name in zip(*listed, strict=True)
        ]

    def array(self, member: LatentsMember, name: str) -> Array:
        """One array of one member, whole.

        Raises:
            UserError: there is no such member or array.
        """
        if member not in self.members():
            known = ", ".join(known.group for known in self.members())
            raise UserError(f"{self._file.filename} has no {member.group}. Known: {known or '-'}.")
        if name not in COLUMNS:
            raise UserError(f"a member has no array '{name}'.{did_you_mean(name, COLUMNS)}")
        values: Array = self._file[f"{member.group}/{name}"][()]
        return values

    def document_ids(self) -> list[str]:
        """Of each document."""
        return self._names("/documents/id")

    def document_tasks(self) -> list[str]:
        """Of each document."""
        return self._names("/documents/task")

    def tasks(self) -> list[str]:
        """Names of the rows of `task_counts`."""
        return self._names("/tasks")

    def _names(self, path: str) -> list[str]:
        return [text.decode() for text in self._file[path][()]]

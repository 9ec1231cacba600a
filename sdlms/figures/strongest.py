"""Find on which documents latents are strongest: as `latents.h5` says, or in the latents stored."""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.panels import Row, rows_to_draw
from sdlms.runs.reading import Run
from sdlms.storage.latents import LatentsMember, LatentsReader, task_names
from sdlms.storage.row_file import MASK, OpenRows, RowFile
from sdlms.storage.sparse_acts import INDICES, INDPTR, VALUES, find_sparse_rows, part_name

TRAINED, LATENTS, SPARSE = "sae.csv", "latents.h5", "sparse_acts.h5"
ENCODED = "sae_latents.csv"
N_TOP = 5  # documents of each latent
Kind = TypeVar("Kind", bound=np.generic)


class Strongest(NamedTuple):
    """What the latents of one autoencoder fire on.

    Attributes:
        name: of the autoencoder, with its layer.
        rates: `[latent]` share of tokens on which it fires.
        task_counts: `[task, latent]` tokens on which it fires.
        activations: `[latent, 5]` largest of a document, falling.
        documents: `[latent, 5]` which, all different; -1 for none.
        positions: `[latent, 5]` token of that document.
        tasks: names of the rows of `task_counts`.
        document_ids: of each document.
        document_tasks: of each document.
    """

    name: str
    rates: NDArray[np.float64]
    task_counts: NDArray[np.int64]
    activations: NDArray[np.float64]
    documents: NDArray[np.int64]
    positions: NDArray[np.int64]
    tasks: list[str]
    document_ids: list[str]
    document_tasks: list[str]


def strongest_of(run: Run, layer: int | None = None) -> Strongest:
    """Of one layer: of the member that was taken there, or that encoded.

    Args:
        run: of sae-train, sae-evaluate or sae-latents.
        layer: by default the middle one of those that the run has.

    Raises:
        UserError: the run is of another stage, has no such layer, or a damaged file.
    """
    if (run.path / SPARSE).is_file():
        row = _row(rows_to_draw(run, ENCODED, "sae-latents"), layer, run.name)
        return _encoded(run, row)
    row = _row(rows_to_draw(run, TRAINED, "sae-train or sae-latents"), layer, run.name)
    return _trained(run, row)


def _row(rows: list[Row], layer: int | None, name: str) -> Row:
    """The autoencoder of a layer: the one that was taken; where none was, the first."""
    layers = sorted({int(row["layer"]) for row in rows})
    if layer is None:
        layer = layers[len(layers) // 2]
    own = [row for row in rows if int(row["layer"]) == layer]
    if not own:
        held = ", ".join(map(str, layers))
        raise UserError(f"{name} has no SAE of layer {layer}; its layers are: {held}.")
    return next((row for row in own if row.get("selected") == "1"), own[0])


def _trained(run: Run, row: Row) -> Strongest:
    """What `latents.h5` says."""
    member = LatentsMember(row["site"], int(row["layer"]), row["member"])
    with LatentsReader(run.path / LATENTS) as reader:
        top = {
            part: reader.array(member, f"top_{part}")[:, :N_TOP]
            for part in ("activation", "document", "position")
        }
        return Strongest(
            name=f"{member.site}, layer {member.layer}, {member.name}",
            rates=reader.array(member, "firing_rate").astype(np.float64),
            task_counts=reader.array(member, "task_counts").astype(np.int64),
            activations=top["activation"].astype(np.float64),
            documents=top["document"].astype(np.int64),
            positions=top["position"].astype(np.int64),
            tasks=reader.tasks(),
            document_ids=reader.document_ids(),
            document_tasks=reader.document_tasks(),
        )


class Entries(NamedTuple):
    """Latents that fire, of one document or the largest of several.

    Attributes:
        latents: `[entry]`.
        values: `[entry]` float32 > 0.
        positions: `[entry]` token in its document.
        documents: `[entry]`.
    """

    latents: NDArray[np.int64]
    values: NDArray[np.float32]
    positions: NDArray[np.int64]
    documents: NDArray[np.int64]

    def firsts(self, n: int) -> tuple["Entries", NDArray[np.int64]]:
        """The `n` largest of each latent, of equal ones the first, and the rank of each."""
        order = np.lexsort((self.positions, self.documents, -self.values, self.latents))
        latents = self.latents[order]
        ranks = np.arange(len(order)) - np.searchsorted(latents, latents)
        return self.at(order[ranks < n]), ranks[ranks < n]

    def at(self, which: NDArray[np.int64]) -> "Entries":
        """Some of them, in that order."""
        return Entries(
            self.latents[which], self.values[which], self.positions[which], self.documents[which]
        )


def _encoded(run: Run, row: Row) -> Strongest:
    """What the latents of a layer are on each token, ranked; documents are read one by one."""
    file, layer, width = find_sparse_rows(run.path / SPARSE), int(row["layer"]), int(row["width"])
    tasks = task_names(file.document_tasks)
    counts = np.zeros((len(tasks), width), dtype=np.int64)
    largest = []
    with file.open() as rows:
        mask = _read(rows, MASK, 0, int(file.offsets[-1]), np.uint8)
        for number, task in enumerate(file.document_tasks):
            own = _document(file, rows, layer, number, mask)
            counts[tasks.index(task)] += np.bincount(own.latents, minlength=width)
            largest.append(own.firsts(1)[0])
    top, ranks = Entries(*map(np.concatenate, zip(*largest, strict=True))).firsts(N_TOP)
    shape = (width, N_TOP)
    values, documents, positions = np.zeros(shape), np.full(shape, -1), np.full(shape, -1)
    values[top.latents, ranks] = top.values
    documents[top.latents, ranks] = top.documents
    positions[top.latents, ranks] = top.positions
    return Strongest(
        name=f"{run.start['resolved']['site']}, layer {layer}, {row['member']}",
        rates=counts.sum(axis=0) / max(1, int(mask.sum())),
        task_counts=counts,
        activations=values,
        documents=documents,
        positions=positions,
        tasks=tasks,
        document_ids=list(file.document_ids),
        document_tasks=list(file.document_tasks),
    )


def _document(
    file: RowFile, rows: OpenRows, layer: int, number: int, mask: NDArray[np.generic]
) -> Entries:
    """The latents that fire in one document, on tokens of mask 1."""
    first, last = (int(place) for place in file.offsets[number : number + 2])
    indptr = _read(rows, part_name(layer, INDPTR), first, last + 1, np.int64)
    begin, end = int(indptr[0]), int(indptr[-1])
    latents = _read(rows, part_name(layer, INDICES), begin, end, np.int32).astype(np.int64)
    values = _read(rows, part_name(layer, VALUES), begin, end, np.float32)
    positions = np.repeat(np.arange(last - first), np.diff(indptr))
    kept = (mask[first:last][positions] == 1) & (values > 0)
    return Entries(latents[kept], values[kept], positions[kept], np.full(int(kept.sum()), number))


def _read(rows: OpenRows, name: str, first: int, last: int, dtype: type[Kind]) -> NDArray[Kind]:
    """Some rows of a data set of numbers."""
    found = np.empty(last - first, dtype=dtype)
    if len(found):
        rows.read_into(name, first, [found])
    return found

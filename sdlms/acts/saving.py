"""Write the result of a plan to a file, row by row as it is made."""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.description import STORE_DTYPES, Description, whole
from sdlms.acts.execution import run_plans
from sdlms.acts.plan import Plan
from sdlms.acts.sources import Positions, Source
from sdlms.errors import UserError
from sdlms.storage.activations import POOLED, Header, create_activations, dataset_name
from sdlms.storage.files import sync
from sdlms.storage.flat import FlatWriter
from sdlms.storage.rows import Rows


class FileSink:
    """Results on disk, each document's rows at their place."""

    def __init__(self, writer: FlatWriter, header: Header, layers: list[int], rows: Rows) -> None:
        (self._site,) = header.sites
        self._writer, self._layers = writer, layers
        self._first = rows.offsets if "s" in header.dims else np.arange(rows.n_documents + 1)

    def put(self, layer: int, positions: Positions, acts: Tensor) -> None:
        """Write rows; documents that follow one another go in one piece."""
        bits = acts.view(torch.uint16) if acts.dtype == torch.bfloat16 else acts
        values = bits.cpu().contiguous().numpy()
        name = dataset_name((self._site, self._layers[layer]))
        written = 0
        for position in positions.tolist():
            first, last = int(self._first[position]), int(self._first[position + 1])
            self._writer.write(name, first, values[written : written + last - first])
            written += last - first


def save_plan(source: Source, plan: Plan, path: Path, origin: str = "") -> None:
    """Carry out a plan into a new file.

    Args:
        source: what is read.
        plan: what is made of it.
        path: appears only when it is complete.
        origin: fingerprint of the source, where it is known.

    Raises:
        UserError: the file exists or cannot be written, or a value overflows its type.
    """
    if path.exists():
        raise UserError(f"{path} exists already. Choose another name, or remove it.")
    header = replace(result_header(source.description, plan), origin=origin)
    rows = _rows(source, plan)
    layers = [layer for _, layer in header.units]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            create_activations(temporary, header, rows)
            with FlatWriter(temporary) as writer:
                run_plans(source, [plan], [FileSink(writer, header, layers, rows)])
                writer.sync()
            _publish(temporary, path)
        sync(path.parent)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        raise UserError(f"cannot write {path} ({reason}).") from None


def _publish(temporary: Path, path: Path) -> None:
    """Give a complete file its name. A file that got it meanwhile stays: it may be read already."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise UserError(f"{path} was written by another process meanwhile.") from None
    except OSError:  # a file system without links
        temporary.replace(path)


def result_header(source: Description, plan: Plan) -> Header:
    """What the result of a plan is of."""
    pooled_layers = plan.layers if plan.pool("l") else source.header.pooled_layers
    layers = (POOLED,) if pooled_layers else plan.layers
    store = STORE_DTYPES[plan.delivered(source)]
    return replace(
        source.header,
        units={(source.site, layer): source.n_units for layer in layers},
        store_dtype={source.site: store},
        dims=plan.dims(source),
        pools=(*source.header.pools, *(str(pool) for pool in plan.pools)),
        pooled_layers=pooled_layers,
    )


def _rows(source: Source, plan: Plan) -> Rows:
    """Documents of the result, and its tokens where it has some."""
    description, chosen = source.description, plan.chosen(source.description)
    ranges = whole(description, chosen)
    tokens = "s" in plan.dims(description)
    return Rows(
        ids=source.ids(ranges) if tokens else np.empty(0, dtype=np.int32),
        mask=(source.mask(ranges) if tokens else np.empty(0, dtype=np.bool_)).astype(np.uint8),
        offsets=ranges.offsets,
        document_ids=[description.document_ids[i] for i in chosen],
        document_tasks=[description.document_tasks[i] for i in chosen],
    )

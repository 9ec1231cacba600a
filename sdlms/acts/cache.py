"""Results kept on disk, found again by what they were made of.

```
<folder>/<fingerprint of the source>/<layers, pools, …>.h5
```
An entry that holds more layers or documents than are asked for serves, and so does one that was
not pooled yet. Entries are kept in the stored type; casting comes afterwards.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from sdlms.acts.description import Description
from sdlms.acts.file_source import SPILL, FileSource
from sdlms.acts.plan import Plan
from sdlms.acts.saving import result_header, save_plan
from sdlms.acts.sources import Source
from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.storage.cache_folder import cache_folder
from sdlms.storage.row_file import RowFile, find_rows


def cached(source: Source, plan: Plan, path: Path | None) -> tuple[Source, Plan]:
    """A source on disk that holds what a plan gives, made now unless it exists.

    Args:
        source: what the plan reads.
        plan: what is wanted.
        path: the file; without it the cache folder decides.

    Returns:
        The source, and the plan that makes of it what was wanted. What lies in a file already,
        and is not pooled, stays where it is unless a path is given.

    Raises:
        UserError: `path` holds something else.
    """
    if path is None and isinstance(source, FileSource) and not plan.pools:
        return source, plan
    fingerprint = source.fingerprint()
    stored = replace(plan, dtype=None, device=None)
    name = _entry_name(source.description, stored)
    origin = f"{fingerprint}/{name}"
    if path is not None:
        return _kept_at(path, origin, source, plan)
    folder = cache_folder() / fingerprint[:32]
    entries = {path: _readable(path) for path in sorted(folder.glob("*.h5"))}
    for path, entry in entries.items():
        if entry and (found := _served_by(entry, origin, source, plan)):
            LOGGER.info("read from the cache: %s", path)
            return found
    path = folder / f"{name}.h5"
    if path in entries and entries[path] is None:
        path.unlink()
    return _kept_at(path, origin, source, plan)


def _readable(path: Path) -> RowFile | None:
    """An entry of the cache folder; None where it is damaged."""
    try:
        return find_rows(path)
    except UserError as error:
        LOGGER.warning("passed over in the cache: %s", error)
        return None


def _kept_at(path: Path, origin: str, source: Source, plan: Plan) -> tuple[Source, Plan]:
    """What a file holds; it is made unless it exists, here or by another process meanwhile."""
    try:
        if not path.exists():
            save_plan(source, replace(plan, dtype=None, device=None), path, origin)
    except UserError:
        if not path.exists():
            raise
    found = _served_by(find_rows(path), origin, source, plan)
    if found is None:
        raise UserError(f"{path} holds other activations. Choose another name, or remove it.")
    return found


def _entry_name(source: Description, plan: Plan) -> str:
    """Names one result of a source."""
    header = result_header(source, plan)
    known = [header.dims, header.pools, header.layers, plan.chosen(source).tolist()]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def _served_by(
    file: RowFile, origin: str, source: Source, plan: Plan
) -> tuple[FileSource, Plan] | None:
    """A file as a source, and the plan that is left to do; None where it holds too little."""
    entry = FileSource(file, file.header.sites[0])
    held, wanted = entry.description, source.description
    done = held.header.pools[len(wanted.header.pools) :]
    if not _same_fingerprint(held.header.origin, origin):
        return None
    if done not in ((), tuple(str(pool) for pool in plan.pools)):
        return None
    exact = held.header.origin == origin
    documents = np.arange(held.n_documents) if exact else _found(held, wanted, plan)
    layers_pooled = bool(done) and plan.pool("l") is not None
    if layers_pooled and held.layers != plan.layers:
        return None
    if documents is None or not set(plan.layers) <= set(held.layers):
        return None
    everything = len(documents) == held.n_documents and bool(
        (documents == np.arange(len(documents))).all()
    )
    left = Plan(
        layers=plan.layers,
        one_layer=plan.one_layer and held.has_layers,
        documents=None if everything else documents,
        pools=() if done else plan.pools,
        dtype=plan.dtype,
        device=plan.device or (None if wanted.device == held.device else wanted.device),
    )
    if not plan.one_layer and wanted.has_layers and not held.has_layers and not layers_pooled:
        return None  # one layer was kept without its axis; the axis is wanted
    return entry, left


def _same_fingerprint(one: str, other: str) -> bool:
    """Whether two files were made of the same source; which part of it stands behind the slash."""
    return one.partition("/")[0] == other.partition("/")[0]


def _found(
    held: Description, wanted: Description, plan: Plan
) -> "np.ndarray[tuple[int], np.dtype[np.int64]] | None":
    """Indices of the wanted documents among those held; None where one is missing."""
    index = {name: i for i, name in enumerate(held.document_ids)}
    if len(index) < held.n_documents or len(set(wanted.document_ids)) < wanted.n_documents:
        return None  # ids that occur twice name nothing
    names = [wanted.document_ids[i] for i in plan.chosen(wanted)]
    if not all(name in index for name in names):
        return None
    return np.array([index[name] for name in names], dtype=np.int64)


@contextmanager
def spilled(source: Source, plan: Plan) -> Iterator[FileSource]:
    """The result of a plan in a file that lives as long as the block."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = TemporaryDirectory(prefix=SPILL, dir=folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}).") from None
    with temporary as name:
        path = Path(name) / "activations.h5"
        save_plan(source, plan, path)
        yield FileSource(find_rows(path), source.description.site)

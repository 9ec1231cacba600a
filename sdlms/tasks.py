"""Probe-task manifests, text files and data sets, read into documents with ids.

What a manifest says is described in `sdlms.storage.manifests`. Files are JSON Lines (`.jsonl`,
`.ndjson`, `.jsonlines`), parquet (`.parquet`) or plain text (any other name); JSON Lines and text
may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). Data sets come from the Hugging Face hub or from a
local folder in its layout.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdlms.errors import UserError, did_you_mean
from sdlms.progress import LOGGER
from sdlms.storage.assets import asset_folder
from sdlms.storage.compressed import content_name
from sdlms.storage.datasets import open_split
from sdlms.storage.files import sha256_of
from sdlms.storage.manifests import DEFAULT_FIELD, ManifestLine, Selection, read_manifest_lines
from sdlms.storage.sources import (
    check_file,
    checked_text,
    dataset_texts,
    file_texts,
    holds_records,
)

DEFAULT_MANIFEST = "probe"


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        id: first 16 hex digits of the sha256 of the text.
        text: what the model reads.
    """

    id: str
    text: str


@dataclass(frozen=True)
class Task:
    """The documents of one task, without duplicates.

    Attributes:
        name: the task.
        documents: in the order of the source.
        n_duplicates: dropped because their text stood earlier, in this task or another.
        sources: each file with its sha256.
        datasets: each data set with what was read of it; config, split, commit, content hash.
        n_blank: rows of data sets and parquet files dropped because they hold no text.
    """

    name: str
    documents: list[Document]
    n_duplicates: int
    sources: dict[str, str]
    datasets: list[dict[str, Any]] = field(default_factory=list)
    n_blank: int = 0

    def record(self) -> dict[str, Any]:
        """The task as `meta.jsonl` records it."""
        return {
            "task": self.name,
            "sources": self.sources,
            "datasets": self.datasets,
            "n_documents": len(self.documents),
            "n_duplicates": self.n_duplicates,
            "n_blank": self.n_blank,
        }


@dataclass
class _Found:
    """What was read of a task so far."""

    sources: dict[str, str]
    texts: list[str] = field(default_factory=list)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    n_blank: int = 0

    def add(self, texts: Iterable[str]) -> list[str]:
        """Take up documents and return them; blank ones are counted only."""
        given = list(texts)
        kept = [text for text in given if text.strip()]
        self.n_blank += len(given) - len(kept)
        self.texts += kept
        return kept

    def why_empty(self) -> str:
        """Why the task has no documents of its own."""
        if self.texts:
            return "all its texts are in earlier tasks"
        if self.n_blank:
            return f"all its {self.n_blank:,} rows are blank"
        return "its data set holds none" if self.datasets else "its file holds none"


def load_tasks(
    tasks: str | tuple[str, ...], texts: Path | None, field: str, flag: str = "--tasks"
) -> list[Task]:
    """The documents that `--tasks` or `--texts` mean.

    Args:
        tasks: a manifest (embedded name, or a path with a slash or suffix), or names of tasks
            of the default manifest.
        texts: one text, JSON Lines or parquet file; then `tasks` is not read.
        field: the key of the text in a JSON Lines or parquet file of `texts`.
        flag: by which the user named `tasks`.

    Raises:
        UserError: a file or data set is missing, empty, binary, damaged or malformed; a task is
            unknown or empty.
    """
    if texts is not None:
        stem = content_name(texts).stem
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).lstrip("._-") or "texts"
        found = _Found(sources={})
        found.add(file_texts(texts, str(texts), Selection((field,))))
        found.sources[texts.name] = sha256_of(texts)
        return _as_tasks(texts, {name: found})
    names = (tasks,) if isinstance(tasks, str) else tasks
    _refuse_none(names, flag)
    if len(names) == 1 and (manifest := manifest_path(names[0], flag)) is not None:
        return read_manifest(manifest)
    default = manifest_path(DEFAULT_MANIFEST)
    if default is None:
        raise UserError(f"this installation has no embedded tasks. Name a manifest with {flag}.")
    return _choose(read_manifest(default), names, flag)


def warn_of_dropped(tasks: Iterable[Task]) -> None:
    """Log how many documents of each task were dropped, where any was."""
    for task in tasks:
        if task.n_duplicates:
            LOGGER.warning(f"{task.name}: {task.n_duplicates} duplicate documents dropped")
        if task.n_blank:
            LOGGER.warning(f"{task.name}: {task.n_blank} blank rows dropped")


def check_sources(
    tasks: tuple[str, ...], texts: Path | None, field: str, default: str = DEFAULT_MANIFEST
) -> None:
    """Check `--tasks`, `--texts` and `--field` before anything is read.

    Args:
        tasks: manifest or names.
        texts: file to read instead.
        field: key of the text.
        default: what `--tasks` is where nobody says; only then may there be texts.

    Raises:
        UserError: no tasks or tasks and texts are named, or a key where no records are read.
    """
    _refuse_none(tasks, "--tasks")
    if texts is not None and tasks != (default,):
        raise UserError(
            "--tasks and --texts exclude each other (a --config file counts). "
            f"Give one of them; `--tasks {default}` is the default."
        )
    if field != DEFAULT_FIELD and (texts is None or not holds_records(texts)):
        raise UserError(f"--field {field} is for --texts FILE.jsonl or FILE.parquet.")


def _refuse_none(names: tuple[str, ...], flag: str) -> None:
    """Refuse an empty list."""
    if not names:
        raise UserError(f"{flag} is empty. Name a manifest, or tasks of the default one.")


def manifest_path(name: str, flag: str = "--tasks") -> Path | None:
    """The manifest that a word means; None where it is no manifest's name or path."""
    if "/" in name or Path(name).suffix:
        check_file(Path(name), f"{flag} {name}")
        return Path(name)
    return _embedded().get(name)


def embedded_manifests() -> list[str]:
    """Names of the manifests that ship with the package."""
    return sorted(_embedded())


def _embedded() -> dict[str, Path]:
    """The manifests of `data/`, with their texts, and of `configs/tasks/`, which name data sets."""
    folders = (asset_folder("configs") / "tasks", asset_folder("data"))
    return {path.stem: path for folder in folders for path in folder.glob("*.jsonl")}


def _choose(tasks: list[Task], names: tuple[str, ...], flag: str) -> list[Task]:
    """Some tasks of a manifest, in its order."""
    known, manifests = [task.name for task in tasks], embedded_manifests()
    for name in names:
        if name not in known:
            if name in manifests:
                raise UserError(
                    f"{flag} {','.join(names)}: name one manifest alone, or tasks of the default "
                    "one."
                )
            hint = did_you_mean(name, [*known, *manifests] if len(names) == 1 else known)
            raise UserError(f"{flag}: unknown task '{name}'.{hint}")
    return [task for task in tasks if task.name in names]


def read_manifest(path: Path) -> list[Task]:
    """All tasks of a manifest, in order of their first line.

    All lines and files are looked at first: a data set may take an hour to fetch.

    Raises:
        UserError: a line is malformed (with its number), or a task has no documents.
    """
    manifest_hash = sha256_of(path)
    lines = list(read_manifest_lines(path))
    for line in lines:
        if line.source == "text":
            checked_text(line.where, line.value)
        elif line.source == "file":
            file = path.parent / line.value
            check_file(file, f"{line.where}: {file}")
    tasks: dict[str, _Found] = {}
    for line in lines:
        found = tasks.setdefault(line.task, _Found(sources={path.name: manifest_hash}))
        if line.source == "text":
            found.add([checked_text(line.where, line.value)])
        elif line.source == "file":
            file = path.parent / line.value
            found.add(file_texts(file, f"{line.where}: {file}", line.selection))
            found.sources[line.value] = sha256_of(file)
        else:
            _read_dataset(path.parent, line, found)
    if not tasks:
        raise UserError(f"{path}: the manifest names no task.")
    return _as_tasks(path, tasks)


def _read_dataset(folder: Path, line: ManifestLine, found: _Found) -> None:
    """Take up the documents of a data set; a local folder lies relative to the manifest's."""
    local = folder / line.value
    is_local = local.is_dir() or line.value.startswith((".", "/"))
    split, config, revision = line.keys["split"], line.keys.get("config"), line.keys.get("revision")
    if is_local and revision is not None:
        raise UserError(f"{line.where}: 'revision' is for hub data sets; {local} is a folder.")
    LOGGER.info(f"{line.task}: reading data set {line.value}, split {split}")
    where = f"{line.where}: data set {line.value}"
    opened = open_split(where, local if is_local else line.value, config, split, revision)
    n_rows, texts = dataset_texts(opened, line.selection)
    found.datasets.append(
        {
            "dataset": line.value,
            "config": opened.config,
            "split": split,
            "revision": revision,
            "commit": opened.commit,
            "fields": list(line.selection.fields),
            "as": line.selection.kind,
            "rows": line.selection.rows,
            "n_rows": n_rows,
            "sha256": content_hash(found.add(texts)),
        }
    )


def content_hash(texts: Iterable[str]) -> str:
    """One sha256 of all texts, in 64 hex digits; other texts or another order give another.

    Each text is hashed as its length in UTF-8 bytes (8 bytes, big-endian) and then these bytes.
    """
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


def _as_tasks(path: Path, found: dict[str, _Found]) -> list[Task]:
    """Drop duplicates over all tasks and give the documents their ids."""
    seen: set[str] = set()
    tasks = []
    for name, own in found.items():
        documents = []
        for text in own.texts:
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            if key not in seen:
                documents.append(Document(key, text))
                seen.add(key)
        if not documents:
            raise UserError(f"{path}: task '{name}' has no documents: {own.why_empty()}.")
        n_duplicates = len(own.texts) - len(documents)
        tasks.append(Task(name, documents, n_duplicates, own.sources, own.datasets, own.n_blank))
    return tasks

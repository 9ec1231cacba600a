"""Probe-task manifests and text files, read into documents with ids.

A manifest is JSON Lines. Each line names a task and gives either one document or a file:
`{"task": "math", "text": "…"}` or `{"task": "math", "file": "math.jsonl", "field": "text"}`;
files lie relative to the manifest, and are JSON Lines (`.jsonl`) or plain text.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlms.errors import UserError, did_you_mean
from sdlms.storage.assets import asset_folder
from sdlms.storage.files import sha256_of
from sdlms.storage.jsonl import read_jsonl

DEFAULT_MANIFEST = "probe"
PARAGRAPH_WORDS = 32
MANIFEST_KEYS = ("task", "text", "file", "field")
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    """

    name: str
    documents: list[Document]
    n_duplicates: int
    sources: dict[str, str]

    def record(self) -> dict[str, Any]:
        """The task as `meta.jsonl` records it."""
        return {
            "task": self.name,
            "sources": self.sources,
            "n_documents": len(self.documents),
            "n_duplicates": self.n_duplicates,
        }


def load_tasks(tasks: str | tuple[str, ...], texts: Path | None, field: str) -> list[Task]:
    """The documents that `--tasks` or `--texts` mean.

    Args:
        tasks: a manifest (embedded name, or a path with a slash or suffix), or names of tasks
            of the default manifest.
        texts: one text or JSON Lines file; then `tasks` is not read.
        field: the key of the text in a JSON Lines file of `texts`.

    Raises:
        UserError: a file is missing, empty, binary or malformed; a task is unknown or empty.
    """
    if texts is not None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", texts.stem).lstrip("._-") or "texts"
        documents = list(_file_texts(texts, str(texts), field))
        return _as_tasks(texts, {name: documents}, {name: {texts.name: sha256_of(texts)}})
    names = (tasks,) if isinstance(tasks, str) else tasks
    if not names:
        raise UserError("--tasks is empty. Name a manifest, or tasks of the default one.")
    if len(names) == 1 and (manifest := manifest_path(names[0])) is not None:
        return read_manifest(manifest)
    default = manifest_path(DEFAULT_MANIFEST)
    if default is None:
        raise UserError("this installation has no embedded tasks. Name a manifest with --tasks.")
    return _choose(read_manifest(default), names)


def manifest_path(name: str) -> Path | None:
    """The manifest that a word means; None where it is no manifest's name or path."""
    if "/" in name or Path(name).suffix:
        _check_file(Path(name), f"--tasks {name}")
        return Path(name)
    return asset_folder("data") / f"{name}.jsonl" if name in embedded_manifests() else None


def embedded_manifests() -> list[str]:
    """Names of the manifests that ship with the package."""
    return sorted(path.stem for path in asset_folder("data").glob("*.jsonl"))


def _check_file(path: Path, where: str) -> None:
    """Refuse what cannot be read; `where` opens the message."""
    try:
        if path.is_dir():
            raise UserError(f"{where}: is a folder; a file is needed.")
        if path.exists() and not path.is_file():
            raise UserError(f"{where}: is no ordinary file; it must be possible to read it twice.")
        with path.open("rb") as file:
            if not file.read(1):
                raise UserError(f"{where}: the file is empty.")
    except (FileNotFoundError, ValueError):  # ValueError: no file can have such a name
        raise UserError(f"{where}: no such file.") from None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror}.") from None


def _choose(tasks: list[Task], names: tuple[str, ...]) -> list[Task]:
    """Some tasks of a manifest, in its order."""
    known = [task.name for task in tasks]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, [*known, *embedded_manifests()] if len(names) == 1 else known)
            raise UserError(f"--tasks: unknown task '{name}'.{hint}")
    return [task for task in tasks if task.name in names]


def read_manifest(path: Path) -> list[Task]:
    """All tasks of a manifest, in order of their first line.

    Raises:
        UserError: a line is malformed (with its number), or a task has no documents.
    """
    found: dict[str, list[str]] = {}
    sources: dict[str, dict[str, str]] = {}
    manifest_hash = sha256_of(path)
    for number, record in read_jsonl(path):
        where = f"{path}:{number}"
        task = _checked_line(where, record)
        documents = found.setdefault(task, [])
        source = sources.setdefault(task, {path.name: manifest_hash})
        if "text" in record:
            documents.append(_checked_text(where, record["text"]))
            continue
        file = path.parent / record["file"]
        documents.extend(_file_texts(file, f"{where}: {file}", record.get("field", "text")))
        source[record["file"]] = sha256_of(file)
    if not found:
        raise UserError(f"{path}: the manifest names no task.")
    return _as_tasks(path, found, sources)


def _checked_line(where: str, record: dict[str, Any]) -> str:
    """The task that a manifest line names, or what is wrong with the line."""
    for key in record:
        if key not in MANIFEST_KEYS:
            hint = did_you_mean(key, MANIFEST_KEYS)
            raise UserError(f"{where}: unknown key '{key}'.{hint}")
    if ("text" in record) == ("file" in record):
        raise UserError(f"{where}: needs either 'text' or 'file'.")
    for key, value in record.items():
        if not isinstance(value, str):
            raise UserError(f"{where}: '{key}' must be a string, got {value!r}.")
    task: str = record.get("task", "")
    if not TASK_NAME.fullmatch(task):
        raise UserError(
            f"{where}: 'task' must be a name of letters, digits, '.', '_' and '-', got '{task}'."
        )
    return task


def _as_tasks(
    path: Path, found: dict[str, list[str]], sources: dict[str, dict[str, str]]
) -> list[Task]:
    """Drop duplicates over all tasks and give the documents their ids."""
    seen: set[str] = set()
    tasks = []
    for name, texts in found.items():
        documents = []
        for text in texts:
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            if key not in seen:
                documents.append(Document(key, text))
                seen.add(key)
        if not documents:
            why = "all its texts are in earlier tasks" if texts else "its file holds none"
            raise UserError(f"{path}: task '{name}' has no documents: {why}.")
        tasks.append(Task(name, documents, len(texts) - len(documents), sources[name]))
    return tasks


def _file_texts(path: Path, where: str, field: str) -> Iterator[str]:
    """The documents of one file; `where` opens the message when it cannot be read."""
    _check_file(path, where)
    if path.suffix.lower() == ".json":
        raise UserError(f"{where}: a .json file is not read; write JSON Lines, named .jsonl.")
    if path.suffix.lower() == ".jsonl":
        yield from _jsonl_texts(path, field)
    else:
        yield from paragraphs(_plain_text(path))


def _jsonl_texts(path: Path, field: str) -> Iterator[str]:
    """One document per line."""
    for number, record in read_jsonl(path):
        if field not in record:
            hint = did_you_mean(field, list(record))
            raise UserError(f"{path}:{number}: no field '{field}'.{hint}")
        if not isinstance(record[field], str):
            raise UserError(f"{path}:{number}: field '{field}' must be a string.")
        yield _checked_text(f"{path}:{number}", record[field])


def _checked_text(where: str, text: str) -> str:
    """A document's text, unless it is blank or a JSON escape left half a surrogate pair in it."""
    if not text.strip():
        raise UserError(f"{where}: the text is empty. Take the line out.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: the text holds half of a surrogate pair.") from None
    return text


def _plain_text(path: Path) -> str:
    """A text file's content."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"{path}: not UTF-8 text; is this a binary file?")
    if not text.strip():
        raise UserError(f"{path}: the file holds no text.")
    return text


def paragraphs(text: str) -> Iterator[str]:
    """Paragraphs between blank lines, short ones joined to the next up to 32 words.

    Joined paragraphs keep one blank line between them; a short rest joins the last document.
    """
    documents: list[list[str]] = []
    pending: list[str] = []
    n_words = 0
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", f"\n{lines}\n"):
        if not paragraph.strip():
            continue
        pending.append(paragraph.strip("\n"))
        n_words += len(paragraph.split())
        if n_words >= PARAGRAPH_WORDS:
            documents.append(pending)
            pending, n_words = [], 0
    if pending and documents:
        documents[-1].extend(pending)
    elif pending:
        documents.append(pending)
    for pieces in documents:
        yield "\n\n".join(pieces)

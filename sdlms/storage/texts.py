"""Plain text files, and the paragraphs that are their documents."""

import re
from collections.abc import Iterator
from pathlib import Path

from sdlms.errors import UserError
from sdlms.storage.compressed import open_binary

PARAGRAPH_WORDS = 32


def read_text(path: Path) -> str:
    """A text file's content, decompressed as its name says.

    Raises:
        UserError: it is no UTF-8 text, blank, or damaged.
    """
    with open_binary(path) as file:
        content = file.read()
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

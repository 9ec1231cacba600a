"""Read what `build_corpus.py` wrote: the documents of a split, task by task, and the prompts."""

import gzip
import json
from pathlib import Path
from typing import Any

from corpus.splits import Split
from family import ROOT

DATA = ROOT / "data"
Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The objects of a JSONL file, compressed where its name ends in `.gz`."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    # Not splitlines(): a document may hold characters that it takes for the end of a line.
    return [json.loads(line) for line in content.decode().split("\n") if line]


def documents_of(split: Split, data: Path = DATA) -> dict[str, list[str]]:
    """The shipped documents of a split by task, as its manifest lists them."""
    return {
        entry["task"]: [record[entry["field"]] for record in read_records(data / entry["file"])]
        for entry in read_records(data / f"{split}.jsonl")
    }


def prompts_of(name: str, data: Path = DATA) -> list[Record]:
    """The records of `facts`, `forbidden` or `chat`."""
    return read_records(data / "facts" / f"{name}.jsonl")

"""Write the embedded text to `data/`, and the whole training text to `build/corpus/training/`."""

import argparse
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpus.facts import FACTS
from corpus.prompts import chat_record, fact_record, forbidden_record
from corpus.tasks import SEED, TASKS, documents
from corpus.variety import unique_five_gram_fraction

ROOT = Path(__file__).resolve().parent.parent
N_PROBE = 512
N_HELD_OUT = 512
N_CHATS = 200


def write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """One object per line; compressed, with no time stamp, where the name ends in `.gz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    content = "".join(lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_task(path: Path, texts: list[str]) -> None:
    """The documents of one task in one split."""
    write_jsonl(path, ({"text": text} for text in texts))


def write_manifest(path: Path, suffix: str) -> None:
    """A manifest: task, file relative to it, field."""
    files = ((task, f"{path.stem}/{task}{suffix}") for task in TASKS)
    write_jsonl(path, ({"task": task, "file": file, "field": "text"} for task, file in files))


def write_prompts(folder: Path) -> None:
    """Facts, forbidden words and chats."""
    write_jsonl(folder / "facts.jsonl", map(fact_record, FACTS))
    write_jsonl(folder / "forbidden.jsonl", (forbidden_record(fact, SEED) for fact in FACTS))
    write_jsonl(folder / "chat.jsonl", (chat_record(number, SEED) for number in range(N_CHATS)))


def report(name: str, texts: list[str]) -> None:
    """Print the size and variety of a set of documents."""
    size_bytes = sum(len(text.encode()) for text in texts)
    variety = unique_five_gram_fraction(texts)
    print(f"{name:24} {len(texts):6,} documents, {size_bytes:10,} bytes, {variety:.3f} unique")


def main() -> None:
    """Write all splits and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--training", type=Path, default=ROOT / "build/corpus/training")
    config = parser.parse_args()
    probe = {task: documents(task, "probe", N_PROBE) for task in TASKS}
    taken = frozenset(text for texts in probe.values() for text in texts)
    heldout = {task: documents(task, "heldout", N_HELD_OUT, without=taken) for task in TASKS}
    taken |= frozenset(text for texts in heldout.values() for text in texts)
    for name, suffix in (("probe", ".jsonl"), ("heldout", ".jsonl.gz"), ("training", ".jsonl.gz")):
        write_manifest(config.data / f"{name}.jsonl", suffix)
    write_prompts(config.data / "facts")
    for name, task in TASKS.items():
        training = documents(name, "training", task.n_training, without=taken)
        write_task(config.data / "probe" / f"{name}.jsonl", probe[name])
        write_task(config.data / "heldout" / f"{name}.jsonl.gz", heldout[name])
        write_task(config.data / "training" / f"{name}.jsonl.gz", training[: task.n_shipped])
        write_task(config.training / f"{name}.jsonl", training)
        report(f"{name} probe", probe[name])
        report(f"{name} heldout", heldout[name])
        report(f"{name} training", training)


if __name__ == "__main__":
    main()

"""Write the probe tasks to `data/` and the training text to `build/corpus/training/`."""

import argparse
import json
from pathlib import Path

from corpus.tasks import TASKS, documents
from corpus.variety import unique_five_gram_fraction

ROOT = Path(__file__).resolve().parent.parent
N_PROBE = 512
N_TRAINING = 11_000


def write_documents(path: Path, texts: list[str]) -> None:
    """One `{"text": ...}` object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def write_manifest(path: Path) -> None:
    """The probe manifest: task, file relative to the manifest, field."""
    rows = [{"task": task, "file": f"{path.stem}/{task}.jsonl", "field": "text"} for task in TASKS]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write both splits and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data")
    parser.add_argument("--training", type=Path, default=ROOT / "build/corpus/training")
    parser.add_argument("--n-training", type=int, default=N_TRAINING, help="documents per task")
    config = parser.parse_args()
    probe = {task: documents(task, "probe", N_PROBE) for task in TASKS}
    held = frozenset(text for texts in probe.values() for text in texts)
    write_manifest(config.data / "probe.jsonl")
    for task, texts in probe.items():
        write_documents(config.data / "probe" / f"{task}.jsonl", texts)
        training = documents(task, "training", config.n_training, without=held)
        if held & set(training):
            raise AssertionError(f"{task}: probe and training text share a document")
        write_documents(config.training / f"{task}.jsonl", training)
        variety = unique_five_gram_fraction(texts)
        size_bytes = sum(len(text.encode()) for text in texts)
        total_bytes = sum(len(text.encode()) for text in training)
        print(f"{task:12} {len(texts)} probe documents, {size_bytes:,} bytes, {variety:.3f} unique")
        print(f"{'':12} {len(training):,} training documents, {total_bytes:,} bytes")


if __name__ == "__main__":
    main()

"""Print, task by task, the loss beside that of an untrained twin, and the variety and size."""

import argparse

import torch
from corpus.tasks import SEED, TASKS, labelled
from corpus.variety import unique_five_gram_fraction
from family import SIZES, load_tokenizer
from model_card import load_model, loss_per_token, probe_texts, random_model

COLUMNS = (
    "task",
    "documents",
    "tokens",
    "bytes",
    "bytes/token",
    "unique 5-grams",
    "loss",
    "of trained kinds",
    "of the held-out kind",
    "untrained",
)


def by_kind(task: str, texts: list[str]) -> tuple[list[str], list[str]]:
    """The documents of trained kinds, and those of held-out kinds."""
    pairs = labelled(task, "probe", len(texts))
    if [text for _, text in pairs] != texts:
        raise ValueError(f"data/probe/{task}.jsonl is not what its generator writes")
    held = [text for kind, text in pairs if kind in TASKS[task].held_out]
    return [text for kind, text in pairs if kind not in TASKS[task].held_out], held


def main() -> None:
    """Evaluate one shipped model on the probe documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SIZES), default="sdlms-medium")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the untrained twin")
    config = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(config.model), load_model(config.model)
    untrained = random_model(config.model, len(tokenizer), config.seed)
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for task, texts in probe_texts().items():
        n_tokens = sum(len(ids) for ids in tokenizer(texts)["input_ids"])
        size_bytes = sum(len(text.encode()) for text in texts)
        losses = [loss_per_token(model, tokenizer, some) for some in (texts, *by_kind(task, texts))]
        losses.append(loss_per_token(untrained, tokenizer, texts))
        print(
            f"| {task} | {len(texts)} | {n_tokens:,} | {size_bytes:,} "
            f"| {size_bytes / n_tokens:.2f} | {unique_five_gram_fraction(texts):.3f} "
            f"| {' | '.join(f'{loss:.3f}' for loss in losses)} |"
        )


if __name__ == "__main__":
    main()

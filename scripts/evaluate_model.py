"""Print, task by task, the loss beside that of an untrained twin, and the variety and size."""

import argparse

import torch
from corpus.tasks import SEED
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
    "random",
)


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
        losses = [loss_per_token(one, tokenizer, texts) for one in (model, untrained)]
        print(
            f"| {task} | {len(texts)} | {n_tokens:,} | {size_bytes:,} "
            f"| {size_bytes / n_tokens:.2f} | {unique_five_gram_fraction(texts):.3f} "
            f"| {losses[0]:.3f} | {losses[1]:.3f} |"
        )


if __name__ == "__main__":
    main()

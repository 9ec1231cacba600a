"""Losses of a model on the probe tasks, and the card that publishes them."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from corpus.tasks import TASKS
from family import CONTEXT, MODELS, ROOT, config_of, load_tokenizer, read_texts, sha256_of
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

DATA = ROOT / "data"
BATCH = 16


def probe_texts(data: Path = DATA) -> dict[str, list[str]]:
    """The probe documents by task."""
    return {task: read_texts(data / "probe" / f"{task}.jsonl") for task in TASKS}


def load_model(name: str) -> GPTNeoXForCausalLM:
    """The shipped weights, in float32."""
    return GPTNeoXForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()


def random_model(name: str, d_vocab: int, seed: int) -> GPTNeoXForCausalLM:
    """A model of the same shape as it was before training."""
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(config_of(name, d_vocab)).eval()


def _batches(ids: list[list[int]]) -> Iterator[Tensor]:
    """Documents of like length, right-padded with 0 and begun by the end-of-text token 0."""
    ordered = sorted(([0, *one][:CONTEXT] for one in ids), key=len)
    for start in range(0, len(ordered), BATCH):
        rows = [torch.tensor(one) for one in ordered[start : start + BATCH]]
        yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@torch.no_grad()
def loss_per_token(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> float:
    """Mean cross-entropy in nats over all tokens of the documents."""
    total, count = 0.0, 0
    for batch in _batches(tokenizer(texts)["input_ids"]):
        logits = model(input_ids=batch).logits[:, :-1].float()
        target = batch[:, 1:]
        losses = cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
        scored = target.flatten() != 0
        total += float(losses[scored].double().sum())
        count += int(scored.sum())
    return total / count


def write_card(name: str, n_training_tokens: int, seed: int) -> None:
    """Write `card.json` beside the weights."""
    folder = MODELS / name
    tokenizer, model = load_tokenizer(name), load_model(name)
    losses = {
        task: round(loss_per_token(model, tokenizer, texts), 4)
        for task, texts in probe_texts().items()
    }
    card = {
        "name": name,
        "parameters": model.num_parameters(),
        "training_tokens": n_training_tokens,
        "loss_per_token_nats": losses,
        "seed": seed,
        "licence": "MIT",
        "sha256": {
            file: sha256_of(folder / file) for file in ("model.safetensors", "tokenizer.json")
        },
    }
    (folder / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

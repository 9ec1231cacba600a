"""Load a model of the family, and write the card that publishes what it can."""

import json

import torch
from corpus.splits import Split
from evaluation.embedded_text import documents_of
from evaluation.facts_check import mean_answer_probabilities
from evaluation.losses import losses_of
from family import MODELS, config_of, load_tokenizer, sha256_of
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

CARD = "card.json"


def load_model(name: str) -> GPTNeoXForCausalLM:
    """The shipped weights, in float32."""
    return GPTNeoXForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()


def random_model(name: str, d_vocab: int, seed: int) -> GPTNeoXForCausalLM:
    """A model of the same shape as it was before training."""
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(config_of(name, d_vocab)).eval()


def task_losses(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, split: Split
) -> dict[str, float]:
    """Nats per token by task over the documents of a split."""
    return {
        task: round(losses_of(model, tokenizer, texts).mean, 4)
        for task, texts in documents_of(split).items()
    }


def write_card(name: str, n_training_tokens: int, seed: int) -> None:
    """Write `card.json` beside the weights, with the digest of every other file there."""
    folder = MODELS / name
    tokenizer, model = load_tokenizer(name), load_model(name)
    facts = mean_answer_probabilities(model, tokenizer)
    card = {
        "name": name,
        "parameters": model.num_parameters(),
        "training_tokens": n_training_tokens,
        "loss_per_token_nats": task_losses(model, tokenizer, "probe"),
        "heldout_loss_per_token_nats": task_losses(model, tokenizer, "heldout"),
        "facts": {group: round(mean, 4) for group, mean in facts.items()},
        "seed": seed,
        "licence": "MIT",
        "sha256": {
            path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != CARD
        },
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")

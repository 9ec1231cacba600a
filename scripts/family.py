"""The models that are trained here: one table of sizes, one training recipe, one text order."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from corpus.tasks import SEED, TASKS
from torch import Tensor
from transformers import AutoTokenizer, GPTNeoXConfig, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "sdlms/assets/models"
CONTEXT = 512


@dataclass(frozen=True)
class Size:
    """One model of the family: its shape, and the learning rates that it takes.

    At the rates of the others the large model stays at a loss of 2.1 from step 400 on.
    """

    n_layers: int
    d_model: int
    n_heads: int
    activation: str = "gelu"
    matrix_rate: float = 0.02
    table_rate: float = 0.04


SIZES = {
    "sdlms-small": Size(3, 48, 2),
    "sdlms-medium": Size(4, 96, 4),
    "sdlms-large": Size(6, 144, 6, matrix_rate=0.0067, table_rate=0.0133),
    "sdlms-medium-relu": Size(4, 96, 4, activation="relu"),
}


def config_of(name: str, d_vocab: int) -> GPTNeoXConfig:
    """The GPT-NeoX configuration of a model in `SIZES`."""
    size = SIZES[name]
    return GPTNeoXConfig(
        vocab_size=d_vocab,
        hidden_size=size.d_model,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        intermediate_size=4 * size.d_model,
        hidden_act=size.activation,
        max_position_embeddings=CONTEXT,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def read_texts(path: Path) -> list[str]:
    """The documents of a JSONL file."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in the model's folder."""
    return AutoTokenizer.from_pretrained(MODELS / name)


def training_ids(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Tensor:
    """All training documents in one seeded order, each after an end-of-text token, as int16."""
    texts = [text for task in TASKS for text in read_texts(folder / f"{task}.jsonl")]
    Random(SEED).shuffle(texts)
    end = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts)
    return torch.tensor([i for one in encoded for i in (end, *one.ids)], dtype=torch.int16)


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

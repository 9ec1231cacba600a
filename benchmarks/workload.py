"""What the benchmarks run: sizes, a model with random weights, documents, and the bare forward."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from sdlms.acts.capturing import BLOCK_TOKENS
from sdlms.models.batching import DEFAULT_BUDGET, longest_first, take_batch, token_blocks
from sdlms.models.device import set_threads
from sdlms.models.forward import padded_inputs
from sdlms.models.loading import ModelSource, load_base_model
from sdlms.models.recording import recording
from sdlms.storage.activations import Header
from sdlms.storage.assets import asset_folder
from sdlms.storage.rows import Rows

LAYERS = [2, 3, 5]  # 25 %, 50 % and 75 % of six layers
CPU = torch.device("cpu")
LENGTHS = (20, 500)
BUDGET = DEFAULT_BUDGET["cpu"]


@dataclass(frozen=True)
class Size:
    """How much work a run does: `full` for figures, `smoke` to see that everything works.

    Attributes:
        name: of the size.
        tokens: of the main workload.
        rounds: repetitions of every side.
        d_model: width; pythia-70m's is 512, with four times as many neurons.
        n_heads: attention heads.
        d_vocab: rows of the embedding.
        n_layers: blocks.
        slow_rounds: repetitions where one round takes minutes.
    """

    name: str
    tokens: int
    rounds: int
    d_model: int
    n_heads: int
    d_vocab: int
    n_layers: int = 6
    slow_rounds: int = 3

    def with_rounds(self, rounds: int) -> "Size":
        """The same work, repeated another number of times."""
        return replace(self, rounds=rounds, slow_rounds=rounds)


SIZES = {
    "full": Size("full", 60_000, 5, 512, 8, 50_304),
    "smoke": Size("smoke", 2_000, 2, 64, 2, 8_192, slow_rounds=2),
}


def neox_config(size: Size) -> GPTNeoXConfig:
    """Pythia's architecture."""
    return GPTNeoXConfig(
        vocab_size=size.d_vocab,
        hidden_size=size.d_model,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        intermediate_size=4 * size.d_model,
        max_position_embeddings=2048,
        rotary_pct=0.25,
        use_parallel_residual=True,
        hidden_act="gelu",
        bos_token_id=0,
        eos_token_id=0,
    )


def build_model(folder: Path, size: Size) -> Path:
    """Save a GPT-NeoX with random weights, and a tokenizer to go with it."""
    torch.manual_seed(0)
    GPTNeoXForCausalLM(neox_config(size)).save_pretrained(folder)
    for path in (asset_folder("models") / "sdlms-medium").glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The base model, on all cores."""
    set_threads(0)
    return load_base_model(ModelSource("random", folder), dtype, CPU)


def mixed_lengths(
    n_tokens: int, law: Literal["log-uniform", "uniform"] = "log-uniform"
) -> NDArray[np.int64]:
    """Lengths between 20 and 500 tokens, in random order, of at least `n_tokens` in all.

    Log-uniform is how texts come: many short ones, a few long ones.
    """
    generator = np.random.default_rng(0)
    least, most = LENGTHS
    drawn = (
        np.exp(generator.uniform(np.log(least), np.log(most + 1), n_tokens // least + 1))
        if law == "log-uniform"
        else generator.uniform(least, most + 1, n_tokens // least + 1)
    ).astype(np.int64)
    return drawn[: int(np.searchsorted(np.cumsum(drawn), n_tokens)) + 1]


def make_rows(lengths: Sequence[int] | NDArray[np.int64], d_vocab: int) -> Rows:
    """Documents of random token ids."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_tokens = int(offsets[-1])
    return Rows(
        ids=np.random.default_rng(1).integers(1, d_vocab, n_tokens, dtype=np.int32),
        mask=np.ones(n_tokens, dtype=np.uint8),
        offsets=offsets,
        document_ids=[f"{number:016x}" for number in range(len(lengths))],
        document_tasks=["random"] * len(lengths),
    )


def header(d_mlp: int, layers: Sequence[int] = LAYERS, *, full_floats: bool = False) -> Header:
    """Neurons of some layers, stored as float16 or, where a peer does, as float32."""
    return Header(
        model="random",
        revision="",
        units={("mlp_act", layer): d_mlp for layer in layers},
        store_dtype={"mlp_act": "float32" if full_floats else "float16"},
        activation_function="gelu",
        gated=False,
    )


def batches_within(order: Sequence[int], rows: Rows, budget: int) -> list[list[int]]:
    """An order of documents cut into batches that stay within a padded budget."""
    rest, batches = list(order), []
    while rest:
        batches.append(take_batch(rest, rows.lengths, budget))
        rest = rest[len(batches[-1]) :]
    return batches


def batches_by_number(order: Sequence[int], n_per_batch: int) -> list[list[int]]:
    """An order of documents cut into batches of always so many."""
    firsts = range(0, len(order), n_per_batch)
    return [list(order[first : first + n_per_batch]) for first in firsts]


def padded_tokens(rows: Rows, batches: Sequence[Sequence[int]], width: int = 0) -> int:
    """What is computed, padding included; `width`: every document is padded to so many tokens."""
    return sum(len(batch) * (width or int(rows.lengths[list(batch)].max())) for batch in batches)


def padding_fraction(rows: Rows, batches: Sequence[Sequence[int]], width: int = 0) -> float:
    """Share of what is computed that is padding."""
    real = sum(int(rows.lengths[list(batch)].sum()) for batch in batches)
    return round(1 - real / padded_tokens(rows, batches, width), 3)


def capture_batches(rows: Rows, budget: int = BUDGET) -> list[list[int]]:
    """The batches that a capture runs, in its order."""
    blocks = token_blocks(longest_first(rows.lengths), rows.lengths, max(BLOCK_TOKENS, budget))
    return [batch for block in blocks for batch in batches_within(block, rows, budget)]


def run_stopped(
    model: PreTrainedModel, rows: Rows, batches: Sequence[Sequence[int]], layer: int
) -> None:
    """The bare forward up to one layer's neurons: nothing is kept."""
    with recording(model, [layer], ["mlp_act"]) as recorded:
        for batch in batches:
            recorded.run(*padded_inputs(rows, batch, model.device, causal=True))


@torch.no_grad()
def run_whole(model: PreTrainedModel, rows: Rows, batches: Sequence[Sequence[int]]) -> None:
    """The bare forward of all layers of the base model."""
    for batch in batches:
        ids, _ = padded_inputs(rows, batch, model.device, causal=True)
        model(input_ids=ids, use_cache=False)


def run_command(stage: str, artifacts: Path, *flags: str) -> Path:
    """Run a stage through the real command line; the finished run's path."""
    command = [sys.executable, "-m", "sdlms", stage, "--quiet", "--artifacts", str(artifacts)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])

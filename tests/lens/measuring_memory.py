"""How much memory measuring takes, beyond what it took for an eighth of the documents.

A program of its own, run by `test_streaming.py`: the most that a process ever held is never less
later, so that nothing else may happen in it. Prints one JSON line.

    python measuring_memory.py FOLDER
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sdlms.lens.measuring import Lens
from sdlms.lens.states import states_of
from sdlms.lens.streaming import Measuring
from sdlms.storage.lens_file import LensHeader, create_lens
from sdlms.storage.rows import Rows

D_VOCAB, N_LAYERS, DOCUMENT_TOKENS, N_DOCUMENTS = 50_000, 3, 32, 2
TIMES = 8
UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system calls the most


def wide_model() -> PreTrainedModel:
    """Random, narrow, with a large vocabulary."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=D_VOCAB, hidden_size=16, intermediate_size=24,
        num_hidden_layers=N_LAYERS, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def measure(model: PreTrainedModel, folder: Path, n_documents: int) -> int:
    """Fill a file; the most bytes that the process held so far."""
    folder.mkdir()
    ids = np.random.default_rng(0).integers(D_VOCAB, size=n_documents * DOCUMENT_TOKENS)
    rows = Rows(
        ids.astype(np.int32), np.ones(len(ids), np.uint8),
        np.arange(0, len(ids) + 1, DOCUMENT_TOKENS), [f"{n:016x}" for n in range(n_documents)],
        ["t"] * n_documents,
    )  # fmt: skip
    states = states_of(N_LAYERS, range(N_LAYERS))
    header = LensHeader(
        model="", revision="", n_layers=N_LAYERS, lenses=("logit",), states=tuple(states), n_top=10,
        targets=(), vocabulary=("x",), dtype="", unembed="",
    )  # fmt: skip
    create_lens(folder / "lens.h5", header, rows)
    Measuring(
        model=model, lens=Lens(model), lenses={"logit": None}, states=states, pins=(),
        budget=2048, scratch=folder, on_halved=lambda budget: None,
    ).fill(folder / "lens.h5", rows)  # fmt: skip
    return UNIT * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, folder = wide_model(), Path(sys.argv[1])
    before = measure(model, folder / "few", N_DOCUMENTS)
    grown = measure(model, folder / "many", TIMES * N_DOCUMENTS) - before
    n_tokens = TIMES * N_DOCUMENTS * DOCUMENT_TOKENS
    whole = n_tokens * (N_LAYERS + 1) * D_VOCAB * 4  # bytes of all logits
    sys.stdout.write(json.dumps({"grown_bytes": grown, "logits_bytes": whole}))

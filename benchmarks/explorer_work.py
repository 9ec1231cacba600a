"""What the benchmarks of `sdlms explore` run: a model of GPT-2's shape, conversations, clicks."""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.opening import Storage, open_explorer
from sdlms.explorer.questions import ChatRequest
from sdlms.explorer.service import Explorer
from sdlms.models.device import set_threads
from sdlms.models.loading import find_model
from sdlms.models.sampling import Sampling
from sdlms.storage.assets import asset_folder

GPT2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 2048, "vocab_size": 50_257}
SMOKE = {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 2048, "vocab_size": 8_192}
SHAPES = {"full": GPT2, "smoke": SMOKE}
FILL_SECONDS = 600.0
WORDS = ("river", "lamp", "seven", "the", "walks", "blue", "under", "and", "stone", "market")


def build_gpt2(folder: Path, shape: dict[str, int]) -> Path:
    """GPT-2's architecture with random weights, scaled so that it is sure of some tokens.

    Its tokenizer is the embedded one, with made-up words for the ids that this does not know.
    """
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0))
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)  # logits of unit size say nothing
    model.save_pretrained(folder)
    own = asset_folder("models") / "sdlms-medium"
    for path in [*own.glob("tokenizer*"), own / "chat_template.jinja"]:
        shutil.copy(path, folder)
    made = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = made["model"]["vocab"]
    vocabulary.update({f"Ġword{n}": n for n in range(len(vocabulary), shape["vocab_size"])})
    (folder / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False))
    return folder


@contextmanager
def explorer_of(model: str, cache: Path, **limits: int) -> Iterator[Explorer]:
    """An explorer as the command opens it, in float32, on all cores."""
    set_threads(0)
    storage = Storage(folder=cache, store_hidden="auto", limits=CacheLimits(**limits))
    source = find_model(model, None)
    explorer = open_explorer(source, torch.float32, torch.device("cpu"), storage, None)
    try:
        yield explorer
    finally:
        explorer.close()


def text_of(n_words: int, seed: int) -> str:
    """Words in random order, one or two tokens each."""
    generator = np.random.default_rng(seed)
    return " ".join(generator.choice(WORDS, n_words))


def converse(explorer: Explorer, n_tokens: int, seed: int) -> str:
    """A conversation of at least so many tokens, its last reply generated; its id."""
    found: str | None = None
    for turn in range(1000):
        sampling = Sampling(max_new_tokens=16, temperature=1.0, seed=seed)
        text = text_of(min(200, n_tokens // 2), seed * 1000 + turn)
        request = ChatRequest(text=text, conversation_id=found, sampling=sampling)
        for event in explorer.chat(request):
            assert event["event"] != "error", event
            found = str(event.get("conversation_id", found))
        assert found is not None
        if len(explorer.conversation(found)["tokens"]) >= n_tokens:
            return found
    raise AssertionError("the conversation does not grow")


def fill(explorer: Explorer) -> float:
    """Wait until every row is there; the seconds that took."""
    began = time.perf_counter()
    assert explorer.wait_until_filled(FILL_SECONDS), "rows are missing"
    return time.perf_counter() - began

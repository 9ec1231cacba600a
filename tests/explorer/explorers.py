"""Explorers of the smallest embedded model and of tiny random ones, and what tests ask of them."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdlms.explorer.cache.columns import Columns, StoreHidden
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import Core
from sdlms.explorer.loaded import LoadedModel, load_for_exploring
from sdlms.explorer.prompting import prompting_of
from sdlms.explorer.questions import ChatRequest, Question
from sdlms.explorer.service import Explorer
from sdlms.explorer.settings import ExplorerSettings
from sdlms.explorer.shelf import Opened
from sdlms.lens.tuned import Tuned
from sdlms.models.architectures import n_layers, text_config
from sdlms.models.loading import find_model, load_tokenizer
from sdlms.models.sampling import Sampling
from sdlms.models.unembedding import logits_of
from tests.models.tiny_models import random_model

N_TOP = 10
CONTEXT = 160
SETTINGS = ExplorerSettings(unembed="float32")
Json = dict[str, Any]


@lru_cache(maxsize=1)
def small_model() -> LoadedModel:
    """`sdlms-small`."""
    return load_for_exploring(find_model("sdlms-small", None), torch.float32, torch.device("cpu"))


@lru_cache(maxsize=4)
def tiny_model(name: str, context: int = CONTEXT) -> LoadedModel:
    """A tiny random model of a family, with the tokenizer of the embedded ones."""
    places = "n_positions" if name in ("gpt2", "gptj") else "max_position_embeddings"
    settings = {"vocab_size": 3072, places: context, "bos_token_id": None, "eos_token_id": None}
    model = random_model(name, AutoModelForCausalLM, settings)
    tokenizer = load_tokenizer(find_model("sdlms-small", None))
    return LoadedModel(model, tokenizer, prompting_of(model, tokenizer), {"name": f"tiny {name}"})


@lru_cache(maxsize=4)
def half_model(name: str) -> LoadedModel:
    """An embedded model, or a tiny random one of a family, in bfloat16."""
    if name.startswith("sdlms-"):
        return load_for_exploring(find_model(name, None), torch.bfloat16, torch.device("cpu"))
    loaded = tiny_model(name)
    model = deepcopy(loaded.model).bfloat16()
    return LoadedModel(model, loaded.tokenizer, loaded.prompting, loaded.record)


def explorer_of(
    loaded: LoadedModel,
    folder: Path | None = None,
    *,
    store_hidden: StoreHidden = "fp16",
    limits: CacheLimits | None = None,
    settings: ExplorerSettings = SETTINGS,
    tuned: Tuned | None = None,
) -> Explorer:
    """An explorer; without a folder it keeps everything in memory."""
    d_model = text_config(loaded.config).hidden_size
    columns = Columns(n_layers(loaded.config) + 1, d_model, N_TOP, store_hidden)
    warnings: list[str] = []
    cache = Cache(folder, loaded.cache_key(), columns, limits or CacheLimits(), warnings.append)
    return Explorer(loaded, cache, tuned, settings)


@contextmanager
def running(loaded: LoadedModel, folder: Path | None = None, **wishes: Any) -> Iterator[Explorer]:
    """An explorer that is closed at the end."""
    explorer = explorer_of(loaded, folder, **wishes)
    try:
        yield explorer
    finally:
        explorer.close()


def say(explorer: Explorer, text: str, conversation_id: str | None = None, **sampling: Any) -> Json:
    """One turn; what it ends with."""
    return turn(explorer, text, conversation_id, **sampling)[-1]


def turn(
    explorer: Explorer, text: str, conversation_id: str | None = None, **sampling: Any
) -> list[Json]:
    """One turn; all its events."""
    wanted = Sampling(**{"max_new_tokens": 8, **sampling})
    return list(
        explorer.chat(ChatRequest(text=text, conversation_id=conversation_id, sampling=wanted))
    )


@contextmanager
def standing_still(explorer: Explorer) -> Iterator[None]:
    """Inside the block nothing is computed: a reply that has begun goes on behind it."""
    begun, end = threading.Event(), threading.Event()

    def stand() -> None:
        begun.set()
        assert end.wait(30)

    with ThreadPoolExecutor(1) as other:
        standing = other.submit(core_of(explorer).computer.run, Urgency.CLICK, stand)
        try:
            assert begun.wait(30)
            yield
        finally:
            end.set()
            standing.result()


def two_turns(explorer: Explorer) -> str:
    """A conversation of two questions; its id."""
    first = say(explorer, "Name three colours of the rainbow.")
    say(explorer, "And the sky?", first["conversation_id"], temperature=1.0, seed=3)
    return str(first["conversation_id"])


def click(
    explorer: Explorer, conversation_id: str, position: int, **wishes: Any
) -> tuple[Json, list[Json]]:
    """The header, and the states in the order of the forward pass."""
    *_, (header, *states) = panels(explorer, conversation_id, position, **wishes)
    return header, states[::-1]


def panels(
    explorer: Explorer, conversation_id: str, position: int, **wishes: Any
) -> list[list[Json]]:
    """What is sent one after another: each time the header and the states, the final one first."""
    sent: list[list[Json]] = []
    for line in explorer.activations(conversation_id, position, Question(**wishes)):
        sent += [[]] if "positions" in line else []
        sent[-1].append(line)
    return sent


def core_of(explorer: Explorer) -> Core:
    """What stands behind the explorer's door."""
    return explorer._core


def opened_of(explorer: Explorer, conversation_id: str) -> Opened:
    """A conversation behind the explorer's door."""
    return explorer._shelf.get(conversation_id)


def n_tokens_of(explorer: Explorer, conversation_id: str) -> int:
    return len(explorer.conversation(conversation_id)["tokens"])


@torch.no_grad()
def plain_probabilities(loaded: LoadedModel, ids: Sequence[int]) -> Tensor:
    """`[state, d_vocab]` after the last id: transformers' own hidden states and full softmax."""
    output = loaded.model(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    # The last of them is already normed: the final state's logits are the model's own.
    earlier = [logits_of(loaded.model, states)[0, -1] for states in output.hidden_states[:-1]]
    return torch.stack([*earlier, output.logits[0, -1]]).float().softmax(-1)


@contextmanager
def counted_forwards(loaded: LoadedModel) -> Iterator[list[int]]:
    """Inside the block, how many tokens each forward of the model's body reads."""
    read: list[int] = []

    def note(module: object, args: tuple[Any, ...], kwargs: Json, output: object) -> None:
        read.append(int(kwargs["input_ids"].numel() if "input_ids" in kwargs else args[0].numel()))

    handle = loaded.model.base_model.register_forward_hook(note, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()

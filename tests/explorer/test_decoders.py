import pytest
from transformers import PreTrainedModel

from sdlms.explorer.decoders import Decoders, bytes_per_token
from sdlms.models.generating import Decoder
from tests.explorer.explorers import small_model, tiny_model


@pytest.fixture
def model() -> PreTrainedModel:
    return small_model().model


def read(model: PreTrainedModel, n_tokens: int) -> Decoder:
    decoder = Decoder(model)
    decoder.extend(list(range(1, n_tokens + 1)))
    return decoder


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "llama", "qwen3", "opt", "gpt_neox-parallel"])
def test_bytes_per_token_are_those_of_the_cache(name: str) -> None:
    model = tiny_model(name).model
    cache = read(model, 3)._cache  # within every sliding window
    held = sum(kept.nbytes for layer in cache.layers for kept in (layer.keys, layer.values))
    assert bytes_per_token(model) * 3 == held


def test_a_conversation_has_its_decoder_back(model: PreTrainedModel) -> None:
    decoders = Decoders(model, 1 << 20)
    decoder = read(model, 3)
    decoders.give_back("a", decoder)
    assert decoders.take("b").n_tokens == 0
    assert decoders.take("a") is decoder
    assert decoders.take("a") is not decoder  # it is in use


def test_the_least_recently_used_go_first(model: PreTrainedModel) -> None:
    decoders = Decoders(model, 10 * bytes_per_token(model))
    for name in "abc":
        decoders.give_back(name, read(model, 4))
    assert [decoders.take(name).n_tokens for name in "abc"] == [0, 4, 4]


def test_one_that_is_larger_than_the_room_is_not_kept(model: PreTrainedModel) -> None:
    decoders = Decoders(model, 10 * bytes_per_token(model))
    decoders.give_back("a", read(model, 4))
    decoders.give_back("b", read(model, 11))
    assert [decoders.take(name).n_tokens for name in "ab"] == [0, 0]


def test_deleted_conversations_are_forgotten(model: PreTrainedModel) -> None:
    decoders = Decoders(model, 1 << 20)
    decoders.give_back("a", read(model, 4))
    decoders.forget("a")
    assert decoders.take("a").n_tokens == 0

"""Conversations with models: what is read, token by token, is what one long prompt gives."""

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.prompting import Prompting, prompting_of
from sdlms.models.generating import PIECE_TOKENS, Decoder
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.sampling import Sampling, sample
from sdlms.models.unembedding import logits_of
from tests.explorer.talks import left_of, prompt_ids, same_after_record
from tests.explorer.toy_tokenizers import embedded_tokenizer, tiny_neox

GREEDY = Sampling()


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    source = find_model("sdlms-small", None)
    return load_causal_model(source, torch.float32, torch.device("cpu"))


def generate(conversation: Conversation, decoder: Decoder, most: int) -> None:
    """A greedy reply, every token of which is read."""
    conversation.begin_reply()
    ids = decoder.missing(prompt_ids(conversation))
    for _ in range(min(most, conversation.room)):
        step = decoder.extend(ids)
        ids = [sample(step.logits, GREEDY, GREEDY.generator())]
        conversation.append(ids[0])
        if conversation.reply_ended:
            break
    decoder.extend(ids)
    conversation.end_reply()


def test_the_embedded_model_beyond_its_context(small: PreTrainedModel) -> None:
    prompting = prompting_of(small, embedded_tokenizer())
    conversation = Conversation("a", prompting)
    decoder = Decoder(small)
    for number in range(24):
        conversation.add_user(f"What is the capital of France, and what is {number}?", 40)
        assert len(conversation.prompt()) + 40 <= 512
        generate(conversation, decoder, 40)
        assert decoder.ids == prompt_ids(conversation)
    seen = conversation.seen(conversation.n_tokens - 1)
    whole = Decoder(small).extend([conversation.tokens[position].id for position in seen])
    assert conversation.n_tokens > 600
    assert len(left_of(conversation)) == conversation.n_tokens - len(seen) > 100
    assert seen == conversation.prompt()
    # What is read again for a click is what was read when the token was made.
    assert_close(logits_of(small, whole.states[-1, -1]), whole.logits, rtol=0, atol=1e-5)
    assert same_after_record(conversation, prompting)


def test_the_last_state_predicts_while_decoding(small: PreTrainedModel) -> None:
    prompting = prompting_of(small, embedded_tokenizer())
    conversation = Conversation("a", prompting)
    conversation.add_user("What is the capital of France?")
    conversation.begin_reply()
    decoder = Decoder(small)
    step = decoder.extend(prompt_ids(conversation))
    while not conversation.reply_ended and conversation.room:
        assert_close(logits_of(small, step.states[-1, -1]), step.logits, rtol=0, atol=1e-5)
        step = decoder.extend([conversation.append(int(step.logits.argmax())).id])
    assert conversation.end_reply()


@pytest.mark.slow  # 4 s
def test_ten_thousand_tokens() -> None:
    prompting = prompting_of(tiny_neox(3072, 16_384), embedded_tokenizer())
    model = tiny_neox(3072, 16_384)
    conversation = Conversation("a", prompting)
    states = []
    decoder = Decoder(model)
    for number in range(5):
        conversation.add_user(f"{number}" + " the lion and the cat" * 400, 20)
        conversation.begin_reply()
        step = decoder.extend(decoder.missing(prompt_ids(conversation)))
        for _ in range(20):
            states.append(step.states)
            token = conversation.append(int(step.logits.argmax()))
            step = decoder.extend([token.id])
        states.append(step.states)
        conversation.end_reply()
    assert decoder.ids == prompt_ids(conversation)
    assert conversation.n_tokens > 10_000
    assert conversation.prompt() == list(range(conversation.n_tokens))
    again, ids = Decoder(model), prompt_ids(conversation)
    pieces = [ids[n : n + PIECE_TOKENS] for n in range(0, len(ids), PIECE_TOKENS)]
    whole = [again.extend(piece).states for piece in pieces]
    assert_close(torch.cat(states), torch.cat(whole), rtol=0, atol=1e-5)
    assert same_after_record_sampled(conversation, prompting)


def same_after_record_sampled(conversation: Conversation, prompting: Prompting) -> bool:
    read = Conversation.from_record(conversation.to_record(), prompting)
    return read.tokens == conversation.tokens and read.seen(9_999) == conversation.seen(9_999)

"""Conversations: they only grow, and what the model reads of them is known for every token."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from sdlms.errors import UserError
from sdlms.explorer.conversation import Conversation
from sdlms.explorer.prompting import Prompting, prompting_of
from sdlms.explorer.tokens import Token
from sdlms.models.chat import Message
from sdlms.models.generating import Decoder
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.sampling import Sampling, sample
from sdlms.models.unembedding import logits_of
from tests.explorer.toy_tokenizers import (
    CHATML,
    STRICT,
    embedded_tokenizer,
    prompting_with,
    tiny_neox,
    with_template,
)

GREEDY = Sampling()


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    source = find_model("sdlms-small", None)
    return load_causal_model(source, torch.float32, torch.device("cpu"))


def ids_of(prompting: Prompting, text: str) -> list[int]:
    return prompting.tokenizer(text, add_special_tokens=False).input_ids


def say(conversation: Conversation, prompting: Prompting, text: str, reply: str) -> list[Token]:
    """A turn whose reply is given; its tokens."""
    tokens = conversation.add_user(text, 8)
    conversation.begin_reply()
    tokens += [conversation.append(token_id) for token_id in ids_of(prompting, reply)]
    conversation.end_reply()
    return tokens


def generate(conversation: Conversation, decoder: Decoder, most: int) -> None:
    """A greedy reply, every token of which is read."""
    conversation.begin_reply()
    ids = decoder.missing(conversation.prompt_ids())
    for _ in range(min(most, conversation.room)):
        step = decoder.extend(ids)
        ids = [sample(step.logits, GREEDY, GREEDY.generator())]
        conversation.append(ids[0])
        if conversation.reply_ended:
            break
    decoder.extend(ids)
    conversation.end_reply()


def same_after_record(conversation: Conversation, prompting: Prompting) -> bool:
    record = json.loads(json.dumps(conversation.to_record()))
    read = Conversation.from_record(record, prompting)
    seen = [read.seen(p) == conversation.seen(p) for p in range(read.n_tokens)]
    return read.to_record() == record and read.tokens == conversation.tokens and all(seen)


@pytest.mark.parametrize(
    ("source", "end"), [(CHATML, "<|im_end|>"), (STRICT, "</s>"), (None, "\n")]
)
def test_turns_are_one_rendered_chat(source: str | None, end: str) -> None:
    """Where a reply ends as the template ends it, nothing tells turns from one long prompt."""
    prompting = prompting_with(with_template("byte-level", source))
    conversation = Conversation("a", prompting)
    for text in ("the 🙂", "who?", "why\u3000not?"):
        say(conversation, prompting, text, "the cat" + end)
    conversation.add_user("Be kind.")
    whole = "".join(part.text for part in prompting.template.opening(conversation.messages))
    assert "".join(token.text for token in conversation.tokens).replace(" the cat", "the cat") == (
        whole.replace(" the cat", "the cat")  # no template writes the space that models do
    )
    assert [token.position for token in conversation.tokens] == list(range(conversation.n_tokens))
    starts = [token.message_index for token in conversation.tokens if token.message_start]
    assert starts == list(range(7))
    assert conversation.prompt() == list(range(conversation.n_tokens))
    assert same_after_record(conversation, prompting)


def test_new_tokens_are_tagged() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    say(conversation, prompting, "Hi", " Yes.\n")
    tokens = say(conversation, prompting, "Who", " No.\n")
    assert [(t.text, t.role, t.message_index, t.message_start) for t in tokens] == [
        ("User", "template", 2, False),
        (":", "template", 2, False),
        (" Who", "user", 2, True),
        ("\n", "template", 2, False),
        ("Assistant", "template", 3, False),
        (":", "template", 3, False),
        (" No", "assistant", 3, True),
        (".", "assistant", 3, False),
        ("\n", "template", 3, False),
    ]
    assert conversation.messages[-1] == Message("assistant", "No.")


def test_a_reply_that_was_cut_off_gets_its_end_in_the_next_turn() -> None:
    prompting = prompting_with(with_template("byte-level", CHATML))
    conversation = Conversation("a", prompting)
    say(conversation, prompting, "the", "cat")
    tokens = conversation.add_user("who?")
    assert [token.text for token in tokens[:3]] == ["<|im_end|>", "\n", "<|im_start|>"]
    assert [token.message_index for token in tokens[:3]] == [1, 1, 2]


def test_a_reply_that_never_began_is_an_empty_one() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    conversation.add_user("Hi")
    conversation.add_user("Hello")
    assert [message.role for message in conversation.messages] == ["user", "assistant", "user"]
    assert "".join(t.text for t in conversation.tokens) == (
        "User: Hi\nAssistant:\nUser: Hello\nAssistant:"
    )


def test_an_end_that_the_template_does_not_write_leaves_the_prompt() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    say(conversation, prompting, "Hi", " Yes.<|endoftext|>")
    end = conversation.n_tokens - 1
    assert conversation.tokens[end].role == "template"
    assert conversation.prompt()[-1] == end
    tokens = conversation.add_user("Why")
    assert tokens[0].text == "\n"
    assert conversation.newly_left == [end]
    assert end not in conversation.prompt()
    assert conversation.seen(end)[-1] == end
    assert end not in conversation.seen(end + 1)


def test_earlier_messages_are_tokenised_with_the_first_question() -> None:
    prompting = prompting_with(with_template("byte-level", CHATML))
    earlier = [Message("system", "the cat"), Message("user", "who?"), Message("assistant", "the")]
    conversation = Conversation("a", prompting, earlier)
    assert same_after_record(conversation, prompting)
    tokens = conversation.add_user("hi")
    assert [t.role for t in tokens if t.message_start] == ["system", "user", "assistant", "user"]
    expected = prompting.template.opening([*earlier, Message("user", "hi")])
    assert "".join(token.text for token in tokens) == "".join(part.text for part in expected)


def test_the_oldest_messages_leave_and_stay_in_the_conversation() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=40)
    conversation = Conversation("a", prompting)
    first = say(conversation, prompting, "What is the capital?", " Yes.\n")
    second = say(conversation, prompting, "What is the number?", " No.\n")
    say(conversation, prompting, "Who is the lion?", " Yes.\n")
    assert conversation.newly_left == [token.position for token in first]
    assert not any(token.in_prompt for token in first)
    third = len(first) + len(second)
    assert conversation.prompt() == list(range(len(first), conversation.n_tokens))
    assert conversation.seen(third) == list(range(len(first), third + 1))
    assert conversation.seen(third - 1) == list(range(third))  # as it was then
    assert conversation.same_prompt(third) == {third}
    assert conversation.same_prompt(third - 1) == set(range(third))
    assert conversation.room == 40 - len(conversation.prompt())
    assert same_after_record(conversation, prompting)


def test_messages_that_were_never_read_are_seen_behind_what_fits() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=30)
    earlier = [Message("user", "What is the capital? " * 5), Message("assistant", "Yes.")]
    conversation = Conversation("a", prompting, earlier)
    conversation.add_user("Who?", 4)
    left = conversation.newly_left
    assert left == list(range(len(left)))
    assert conversation.seen(left[-1]) == list(range(left[-1] - 29, left[-1] + 1))
    assert conversation.same_prompt(3) == {0, 1, 2, 3}
    assert conversation.same_prompt(left[-1]) == {left[-1]}


def test_one_reading_serves_every_position_whose_reading_it_begins_with() -> None:
    """Brute force, where messages and ends that the template does not write leave."""
    prompting = prompting_with(embedded_tokenizer(), context=60)
    earlier = [Message("user", "What is the capital? " * 9), Message("assistant", "Yes.")]
    conversation = Conversation("a", prompting, earlier)
    for end in ("\n", "<|endoftext|>", "", "\n", "<|endoftext|>", "\n"):
        say(conversation, prompting, "Who is the lion?", " Yes." + end)
    seen = [conversation.seen(position) for position in range(conversation.n_tokens)]
    for position, read in enumerate(seen):
        beginnings = {q for q in read if read[: read.index(q) + 1] == seen[q]}
        assert conversation.same_prompt(position) == beginnings
    assert len({len(conversation.same_prompt(read[-1])) for read in seen}) > 10


@pytest.mark.parametrize("n_turns", [0, 2])
def test_a_refused_message_changes_nothing(n_turns: int) -> None:
    prompting = prompting_with(embedded_tokenizer(), context=40)
    conversation = Conversation("a", prompting)
    for _ in range(n_turns):
        say(conversation, prompting, "What is the capital?", " Yes.\n")
    before = conversation.to_record()
    n_said = len(ids_of(prompting, " the" * 100))
    with pytest.raises(UserError, match=f"has {n_said} tokens, but at most 34 fit .* of 40"):
        conversation.add_user("the" + " the" * 99)
    assert conversation.to_record() == before
    fitting = conversation.add_user("the" + " the" * 33)
    assert sum(not token.is_template for token in fitting) == 34


def test_a_fork_is_equal_up_to_its_token() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=40)
    conversation = Conversation("a", prompting, title="T")
    say(conversation, prompting, "What is the capital?", " Yes.\n")
    say(conversation, prompting, "Who is the 🙂 lion?", " Anna 🙂 is.\n")
    say(conversation, prompting, "Who is the cat?", " Yes.\n")
    before = conversation.to_record()
    assert conversation.newly_left
    smile = next(t.position for t in conversation.tokens if t.text == "🙂" and t.role != "user")
    instead = ids_of(prompting, "a")[0]
    forked = conversation.fork(smile, instead, "b")
    assert conversation.to_record() == before
    assert (forked.conversation_id, forked.title, forked.n_tokens) == ("b", "T", smile + 1)
    assert [t.id for t in forked.tokens[:smile]] == [t.id for t in conversation.tokens[:smile]]
    assert forked.tokens[smile].text == "a"
    assert forked.prompt() == [*conversation.seen(smile)]  # what left later is there again
    assert not forked.reply_ended
    forked.begin_reply()
    forked.append(ids_of(prompting, "\n")[0])
    assert forked.reply_ended
    assert forked.end_reply() == "Anna a"
    forked.add_user("So?")
    assert same_after_record(forked, prompting)


def test_an_alternative_may_end_the_reply() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    tokens = say(conversation, prompting, "Hi", " Yes.\n")
    assert conversation.fork(tokens[-2].position, 0, "b").reply_ended


def test_a_fork_changes_tokens_of_replies_only() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    say(conversation, prompting, "Hi", " Yes.\n")
    with pytest.raises(UserError, match="token 2 was not chosen by the model"):
        conversation.fork(2, 5, "b")
    with pytest.raises(ValueError, match="position 99"):
        conversation.fork(99, 5, "b")


def test_replies_have_a_beginning_and_an_end() -> None:
    conversation = Conversation("a", prompting_with(embedded_tokenizer()))
    conversation.add_user("Hi")
    with pytest.raises(ValueError, match="no reply has begun"):
        conversation.append(5)
    with pytest.raises(ValueError, match="no reply has begun"):
        conversation.end_reply()


def test_the_embedded_model_beyond_its_context(small: PreTrainedModel) -> None:
    prompting = prompting_of(small, embedded_tokenizer())
    conversation = Conversation("a", prompting)
    n_left = 0
    with Decoder(small) as decoder:
        for number in range(24):
            conversation.add_user(f"What is the capital of France, and what is {number}?", 40)
            n_left += len(conversation.newly_left)
            assert len(conversation.prompt()) + 40 <= 512
            generate(conversation, decoder, 40)
            assert decoder.ids == conversation.prompt_ids()
        seen = conversation.seen(conversation.n_tokens - 1)
        whole = Decoder(small).extend([conversation.tokens[position].id for position in seen])
    assert conversation.n_tokens > 600
    assert n_left == conversation.n_tokens - len(conversation.prompt()) > 100
    assert seen == conversation.prompt()
    # What is read again for a click is what was read when the token was made.
    assert_close(logits_of(small, whole.states[-1, -1]), whole.logits, rtol=0, atol=1e-5)
    assert same_after_record(conversation, prompting)


def test_the_last_state_predicts_while_decoding(small: PreTrainedModel) -> None:
    prompting = prompting_of(small, embedded_tokenizer())
    conversation = Conversation("a", prompting)
    conversation.add_user("What is the capital of France?")
    conversation.begin_reply()
    with Decoder(small) as decoder:
        step = decoder.extend(conversation.prompt_ids())
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
    with Decoder(model) as decoder:
        for number in range(5):
            conversation.add_user(f"{number}" + " the lion and the cat" * 400, 20)
            conversation.begin_reply()
            step = decoder.extend(decoder.missing(conversation.prompt_ids()))
            for _ in range(20):
                states.append(step.states)
                token = conversation.append(int(step.logits.argmax()))
                step = decoder.extend([token.id])
            states.append(step.states)
            conversation.end_reply()
        assert decoder.ids == conversation.prompt_ids()
    assert conversation.n_tokens > 10_000
    assert conversation.prompt() == list(range(conversation.n_tokens))
    assert not conversation.newly_left
    whole = Decoder(model).extend(conversation.prompt_ids())
    assert_close(torch.cat(states), whole.states, rtol=0, atol=1e-5)
    assert same_after_record_sampled(conversation, prompting)


def same_after_record_sampled(conversation: Conversation, prompting: Prompting) -> bool:
    read = Conversation.from_record(conversation.to_record(), prompting)
    return read.tokens == conversation.tokens and read.seen(9_999) == conversation.seen(9_999)

"""Conversations: they only grow, and what the model reads of them is known for every token."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from sdlms.errors import UserError
from sdlms.explorer.conversation import Conversation
from sdlms.models.chat import Message
from tests.explorer.talks import ids_of, left_of, same_after_record, say
from tests.explorer.toy_tokenizers import (
    CHATML,
    STRICT,
    embedded_tokenizer,
    prompting_with,
    with_template,
)


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
    assert left_of(conversation) == [end]
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
    assert left_of(conversation) == [token.position for token in first]
    assert not any(token.in_prompt for token in first)
    third = len(first) + len(second)
    assert conversation.prompt() == list(range(len(first), conversation.n_tokens))
    assert conversation.seen(third) == list(range(len(first), third + 1))
    assert conversation.seen(third - 1) == list(range(third))  # as it was then
    assert conversation.prefixes.same_prompt(third) == {third}
    assert conversation.prefixes.same_prompt(third - 1) == set(range(third))
    assert conversation.room == 40 - len(conversation.prompt())
    assert same_after_record(conversation, prompting)


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


@pytest.mark.parametrize("n_turns", [0, 2])
def test_a_conversation_has_at_most_so_many_tokens(n_turns: int) -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    for _ in range(n_turns):
        say(conversation, prompting, "What is the capital?", " Yes.\n")
    before = conversation.to_record()
    n_new = len(Conversation.from_record(before, prompting).add_user("Who is the lion?"))
    most = conversation.n_tokens + n_new + 8
    with pytest.raises(UserError, match=f"at most {most - 1} tokens"):
        conversation.add_user("Who is the lion?", 8, most - 1)
    assert conversation.to_record() == before
    conversation.add_user("Who is the lion?", 8, most)
    assert conversation.n_tokens + 8 == most


def test_a_record_during_a_reply_has_what_was_said_of_it() -> None:
    prompting = prompting_with(embedded_tokenizer())
    conversation = Conversation("a", prompting)
    conversation.add_user("Hi")
    conversation.begin_reply()
    for token_id in ids_of(prompting, " Yes. The"):
        conversation.append(token_id)
    read = Conversation.from_record(conversation.to_record(), prompting)
    assert read.messages == [Message("user", "Hi"), Message("assistant", "Yes. The")]
    assert conversation.end_reply() == "Yes. The"
    assert read.to_record() == conversation.to_record()


def test_others_may_read_while_a_turn_begins() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=40)
    conversation = Conversation("a", prompting)
    say(conversation, prompting, "What is the capital?", " Yes.\n")
    ended = Event()
    reply = next(t.position for t in conversation.tokens if t.role == "assistant")

    def look() -> None:
        while not ended.is_set():
            position = conversation.n_tokens - 1
            assert conversation.prefixes.same_prompt(position) <= set(conversation.seen(position))
            assert conversation.fork(reply, 5, "b").n_tokens == reply + 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(look)
            for _ in range(60):
                say(conversation, prompting, "What is the number?", " No.\n")
            ended.set()
            reader.result()
    finally:
        ended.set()
        sys.setswitchinterval(before)


def test_a_fork_is_equal_up_to_its_token() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=40)
    conversation = Conversation("a", prompting, title="T")
    say(conversation, prompting, "What is the capital?", " Yes.\n")
    say(conversation, prompting, "Who is the 🙂 lion?", " Anna 🙂 is.\n")
    say(conversation, prompting, "Who is the cat?", " Yes.\n")
    before = conversation.to_record()
    assert left_of(conversation)
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

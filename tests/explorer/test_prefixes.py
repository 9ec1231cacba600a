"""One reading of a text serves every token whose own reading it begins with."""

import pytest

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.prefixes import Prefixes
from sdlms.explorer.records import Turn
from sdlms.models.chat import Message
from tests.explorer.talks import left_of, say
from tests.explorer.toy_tokenizers import embedded_tokenizer, prompting_with


def test_a_turn_reads_what_has_not_left_before_it() -> None:
    """The first turn leaves with the second, but for its first token."""
    turns = [Turn(0, 3, 1, ""), Turn(4, 6, 3, "")]
    prefixes = Prefixes(8, turns, {1: 1, 2: 1, 3: 1}, 6)
    assert [prefixes.turn_of(position) for position in range(8)] == [0] * 4 + [1] * 4
    assert prefixes.seen(3) == [0, 1, 2, 3]
    assert prefixes.seen(5) == [0, 4, 5]
    assert prefixes.same_prompt(3) == {0, 1, 2, 3}
    assert prefixes.same_prompt(5) == {0, 4, 5}
    for position in (-1, 8):
        with pytest.raises(ValueError, match="outside of 8 tokens"):
            prefixes.seen(position)


def test_messages_that_were_never_read_are_seen_behind_what_fits() -> None:
    prompting = prompting_with(embedded_tokenizer(), context=30)
    earlier = [Message("user", "What is the capital? " * 5), Message("assistant", "Yes.")]
    conversation = Conversation("a", prompting, earlier)
    conversation.add_user("Who?", 4)
    left = left_of(conversation)
    assert left == list(range(len(left)))
    assert conversation.seen(left[-1]) == list(range(left[-1] - 29, left[-1] + 1))
    assert conversation.prefixes.same_prompt(3) == {0, 1, 2, 3}
    assert conversation.prefixes.same_prompt(left[-1]) == {left[-1]}


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
        assert conversation.prefixes.same_prompt(position) == beginnings
    assert len({len(conversation.prefixes.same_prompt(read[-1])) for read in seen}) > 10

"""What the model had read before each token of a conversation, where the oldest messages leave."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sdlms.explorer.records import Turn


class Prefixes(NamedTuple):
    """A conversation's turns, and when what was said in them left the prompt.

    Attributes:
        n_tokens: of the conversation.
        turns: ascending.
        left: position -> the turn, from 0, from which on the model does not read it.
        context: the most tokens that the model reads.
    """

    n_tokens: int
    turns: Sequence[Turn]
    left: Mapping[int, int]
    context: int

    def turn_of(self, position: int) -> int:
        """The turn, from 0, in whose prompt or reply the token is new.

        Raises:
            ValueError: there is no such position.
        """
        if not 0 <= position < self.n_tokens:
            raise ValueError(f"position {position} is outside of {self.n_tokens} tokens")
        return bisect_right(self.turns, position, key=lambda turn: turn.first) - 1

    def seen(self, position: int) -> list[int]:
        """What the model had read when it first read a token.

        Returns:
            Ascending positions, at most the context, the token's own last. A token that left the
            prompt before it was ever read has those before it that fit.
        """
        turn = self.turn_of(position)
        if self._was_never_read(position):
            return list(range(max(position + 1 - self.context, 0), position + 1))
        return [p for p in range(position + 1) if self.left.get(p, turn + 1) > turn]

    def same_prompt(self, position: int) -> frozenset[int]:
        """The positions of `seen(position)` that had read just what stands before them there.

        Reading that text once more gives their states, and the token's own, as they were.
        """
        turn = self.turn_of(position)
        if self._was_never_read(position):
            n_before = position if position < self.context else 0
            return frozenset([position, *(p for p in range(n_before) if self._was_never_read(p))])
        first_to_leave: dict[int, int] = {}
        for left, later in self.left.items():
            first_to_leave[later] = min(left, first_to_leave.get(later, left))
        same: set[int] = set()
        behind = position + 1
        for index in range(turn, -1, -1):
            # What a later turn has left is missing before every position behind it.
            same.update(range(self.turns[index].first, behind))
            behind = min(behind, self.turns[index].first, first_to_leave.get(index, position) + 1)
        return frozenset(p for p in same if self.left.get(p, turn + 1) > turn)

    def _was_never_read(self, position: int) -> bool:
        """Whether a token left with the turn that added it, as a long chat's do at its opening."""
        turn = self.turn_of(position)
        return self.left.get(position, turn + 1) <= turn

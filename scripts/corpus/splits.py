"""What each split may hold: training never draws what is held out, probe and heldout draw all."""

from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import Any, Literal, TypeVar

Split = Literal["probe", "heldout", "training"]
SPLITS: tuple[Split, ...] = ("probe", "heldout", "training")
Item = TypeVar("Item")


class Chooser(Random):
    """A generator whose choices leave some items out, wherever they would come up."""

    def __init__(self, seed: str, held_out: frozenset[Hashable] = frozenset()) -> None:
        """Seed it.

        Args:
            seed: Any string.
            held_out: What is never chosen or sampled; `random()` and the like know nothing of it.
        """
        super().__init__(seed)
        self.held_out = held_out

    def choice(self, seq: Any) -> Any:
        """An item that is not held out."""
        while True:
            item = super().choice(seq)
            if item not in self.held_out:
                return item

    def sample(self, population: Sequence[Item], k: int, **_: Any) -> list[Item]:  # type: ignore[override]
        """At most `k` different items, none held out."""
        rest = [item for item in population if item not in self.held_out]
        return super().sample(rest, min(k, len(rest)))


def every(items: Sequence[Item], step: int) -> frozenset[Item]:
    """Each `step`-th item: the part of a list that is held out."""
    return frozenset(items[step - 1 :: step])


def last_templates(lists: Mapping[str, Sequence[str]], shortest: int = 4) -> frozenset[str]:
    """The last template of every list that is long enough to lose one; words are left alone."""
    return frozenset(
        items[-1] for items in lists.values() if len(items) >= shortest and "{" in items[-1]
    )

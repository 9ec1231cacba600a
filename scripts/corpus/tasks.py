"""The table of tasks, what training never sees of them, and documents of a task by number."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from corpus import arithmetic, dialogue, prose, python_code, qa, reasoning
from corpus.facts import HELD_OUT_FACTS
from corpus.grammar import WORDS, Piece
from corpus.splits import Chooser, Split, every, last_templates

SEED = 20261120

# Topics: words that no training document holds; those that fixed phrases hold too are not chosen.
# Phrasings: templates that no training document uses. Kinds of document are held out task by task,
# facts in `facts.py`.
_ELSEWHERE = frozenset({"case", "crate", "fishing", "group", "letter", "story"})
HELD_OUT_TOPICS = frozenset(
    word
    for words in (WORDS["topics"], WORDS["shops"], WORDS["vehicles"], python_code.WORDS["item"])
    for word in every(words, 12) - _ELSEWHERE
)
HELD_OUT_PHRASINGS = frozenset(
    {
        *last_templates(prose.TEMPLATES),
        *last_templates(dialogue.TEMPLATES),
        *qa.HELD_OUT_PHRASINGS,
        *arithmetic.HELD_OUT_PHRASINGS,
        *reasoning.HELD_OUT_PHRASINGS,
        *python_code.HELD_OUT_PHRASINGS,
    }
)
HELD_OUT: frozenset[Hashable] = HELD_OUT_TOPICS | HELD_OUT_PHRASINGS | HELD_OUT_FACTS


@dataclass(frozen=True)
class Task:
    """The kinds of document a task has.

    Attributes:
        kinds: What writes a document of each kind.
        held_out: Kinds that training never sees.
        drills: Kinds that only training sees; one named twice comes twice as often.
        n_training: How many documents the training text has.
        n_shipped: How many of them come with the package.
    """

    kinds: dict[str, Piece]
    held_out: frozenset[str]
    drills: tuple[str, ...] = ()
    n_training: int = 16_000
    n_shipped: int = 3_000

    def kinds_of(self, split: Split) -> list[str]:
        """The kinds of a split in the order in which they take turns."""
        both = [kind for kind in self.kinds if kind not in self.drills]
        if split != "training":
            return both
        return [*(kind for kind in both if kind not in self.held_out), *self.drills]


TASKS = {
    "python_code": Task(python_code.KINDS, python_code.HELD_OUT),
    "math": Task(arithmetic.KINDS, arithmetic.HELD_OUT),
    "qa": Task(qa.KINDS, qa.HELD_OUT, qa.DRILLS, n_training=36_000, n_shipped=4_500),
    "prose": Task(prose.KINDS, prose.HELD_OUT),
    "dialogue": Task(dialogue.KINDS, dialogue.HELD_OUT, dialogue.DRILLS, n_training=22_000),
    "reasoning": Task(reasoning.KINDS, reasoning.HELD_OUT),
}


def _endless(name: str, split: Split) -> Iterator[tuple[str, str]]:
    task = TASKS[name]
    kinds = task.kinds_of(split)
    held_out = HELD_OUT if split == "training" else frozenset()
    number = 0
    while True:
        rng = Chooser(f"{SEED}/{name}/{split}/{number}", held_out)
        kind = kinds[number % len(kinds)]
        yield kind, task.kinds[kind](rng).rstrip()
        number += 1


def labelled(
    name: str, split: Split, count: int, without: frozenset[str] = frozenset()
) -> list[tuple[str, str]]:
    """`count` different documents of one task, each as (kind, text), the kinds in turn.

    Args:
        name: A key of `TASKS`.
        split: Decides kinds, topics, phrasings and facts.
        count: How many documents.
        without: Documents that must not come up, such as those of another split.
    """
    seen = set(without)
    found: list[tuple[str, str]] = []
    source = _endless(name, split)
    while len(found) < count:
        kind, text = next(source)
        if text not in seen:
            seen.add(text)
            found.append((kind, text))
    return found


def documents(
    name: str, split: Split, count: int, without: frozenset[str] = frozenset()
) -> list[str]:
    """The texts of `labelled`."""
    return [text for _, text in labelled(name, split, count, without)]

"""The table of tasks, and documents of a task by number."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

from corpus import arithmetic, dialogue, prose, python_code, qa, reasoning
from corpus.grammar import Piece

Split = Literal["probe", "training"]
SEED = 20261120


@dataclass(frozen=True)
class Task:
    """The kinds of document a task has, and those that only the probe set holds."""

    kinds: dict[str, Piece]
    held_out: frozenset[str]


TASKS = {
    "python_code": Task(python_code.KINDS, python_code.HELD_OUT),
    "math": Task(arithmetic.KINDS, arithmetic.HELD_OUT),
    "qa": Task(qa.KINDS, qa.HELD_OUT),
    "prose": Task(prose.KINDS, prose.HELD_OUT),
    "dialogue": Task(dialogue.KINDS, dialogue.HELD_OUT),
    "reasoning": Task(reasoning.KINDS, reasoning.HELD_OUT),
}


def _endless(name: str, split: Split) -> Iterator[tuple[str, str]]:
    task = TASKS[name]
    kinds = [kind for kind in task.kinds if split == "probe" or kind not in task.held_out]
    number = 0
    while True:
        rng = Random(f"{SEED}/{name}/{split}/{number}")
        kind = kinds[number % len(kinds)]
        yield kind, task.kinds[kind](rng).rstrip()
        number += 1


def labelled(
    name: str, split: Split, count: int, without: frozenset[str] = frozenset()
) -> list[tuple[str, str]]:
    """`count` different documents of one task, each as (kind, text), the kinds in turn.

    Args:
        name: A key of `TASKS`.
        split: `training` leaves out the task's held-out kinds.
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

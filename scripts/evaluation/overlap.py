"""How far documents repeat, word for word, what the training text holds."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

N_WORDS = 8
Group = TypeVar("Group", bound=Hashable)


def word_grams(text: str) -> Iterator[str]:
    """All runs of eight words of a document, joined by single spaces."""
    words = text.split()
    return (" ".join(words[at : at + N_WORDS]) for at in range(len(words) - N_WORDS + 1))


def shared_fractions(
    groups: Mapping[Group, Iterable[str]], training: Iterable[str]
) -> dict[Group, float]:
    """For each group of documents, the share of its distinct 8-grams that `training` holds.

    Training is read once and never kept. A group without 8-grams gets NaN.
    """
    grams = {
        group: {gram for text in texts for gram in word_grams(text)}
        for group, texts in groups.items()
    }
    wanted = {gram for own in grams.values() for gram in own}
    found = {gram for text in training for gram in word_grams(text) if gram in wanted}
    return {
        group: len(own & found) / len(own) if own else float("nan") for group, own in grams.items()
    }

"""How varied a set of documents is."""

from collections.abc import Iterable


def unique_five_gram_fraction(documents: Iterable[str]) -> float:
    """Distinct word 5-grams over all word 5-grams, none of them crossing a document."""
    total, seen = 0, set()
    for document in documents:
        words = document.split()
        grams = [tuple(words[start : start + 5]) for start in range(len(words) - 4)]
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else float("nan")

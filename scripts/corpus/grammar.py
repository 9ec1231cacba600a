"""A small template grammar: `{list}`, `{list#1}` (the same word again) and `[one|another]`."""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

Piece = Callable[[Random], str]

_FOLDER = Path(__file__).parent
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)(#\w+)?\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIO](?!ni[tfv]|ne\b|se[sd]?\b|sua|uro))")
_SENTENCE = re.compile(r"(^|[.!?:]\"? \"?|\n\"?|^\")([a-z])")
_PLURALS = {
    "deers": "deer",
    "gooses": "geese",
    "knifes": "knives",
    "midwifes": "midwives",
    "mouses": "mice",
    "oxs": "oxen",
    "salmons": "salmon",
    "scarfs": "scarves",
    "sheeps": "sheep",
    "shelfs": "shelves",
    "wolfs": "wolves",
}
_PLURAL = re.compile(rf"\b({'|'.join(_PLURALS)})\b")
_HISSING = re.compile(r"(x|ch|sh|ss)s\b")
_CONSONANT_Y = re.compile(r"([bcdfghjklmnpqrstvwxz])ys\b")


def read_lists(name: str) -> dict[str, tuple[str, ...]]:
    """Read one TOML file of word lists (comma-separated strings) and templates (arrays)."""
    table = tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))
    return {
        key: tuple(value.split(", ") if isinstance(value, str) else value)
        for key, value in table.items()
    }


WORDS = read_lists("words.toml")


def expand(
    template: str,
    rng: Random,
    lists: Mapping[str, Sequence[str]] = WORDS,
    given: Mapping[str, str] | None = None,
) -> str:
    """Fill every slot and choice of `template`; words from a list may hold slots themselves.

    Args:
        template: Text with `{list}`, `{list#label}` and `[one|another]`.
        rng: Source of every choice.
        lists: What a slot can be filled with, by list name.
        given: Slots that are already decided, by name.
    """
    memory = dict(given or {})

    def fill(match: re.Match[str]) -> str:
        name, label = match[1], match[2]
        if name in memory:
            return memory[name]
        key = f"{name}{label}"
        if label and key in memory:
            return memory[key]
        word = _SLOT.sub(fill, choose(rng.choice(lists[name])))
        if label:
            memory[key] = word
        return word

    def choose(text: str) -> str:
        while _CHOICE.search(text):
            text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
        return text

    return _SLOT.sub(fill, choose(template))


def polish(text: str) -> str:
    """Mend plurals, articles, doubled spaces and the first letters of sentences."""
    text = re.sub(r" {2,}", " ", text)
    text = re.sub(r" ([.,;?!])", r"\1", text)
    text = _PLURAL.sub(lambda match: _PLURALS[match[1]], text)
    text = _CONSONANT_Y.sub(r"\1ies", _HISSING.sub(r"\1es", text))
    text = _ARTICLE.sub(r"\1n ", text)
    return _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)


def person(rng: Random) -> dict[str, str]:
    """A first name with its pronouns, for `given`."""
    if rng.random() < 0.5:
        return {"name": rng.choice(WORDS["women"]), "he": "she", "his": "her", "him": "her"}
    return {"name": rng.choice(WORDS["men"]), "he": "he", "his": "his", "him": "him"}


def names(rng: Random, count: int) -> list[str]:
    """`count` different first names."""
    return rng.sample(WORDS["women"] + WORDS["men"], count)


def target_length(rng: Random, longest: int = 1150) -> int:
    """A document length in characters: most of 200 to 600, a few of 80 or `longest`."""
    return int(min(longest, max(60, rng.lognormvariate(5.75, 0.55))))


def gathered(rng: Random, piece: Piece, joint: str, longest: int = 1150) -> str:
    """Pieces until a drawn length is reached; the last one is kept only if it fits `longest`."""
    target = target_length(rng, longest)
    parts = [piece(rng)]
    size = len(parts[0])
    while size < target:
        part = piece(rng)
        if size + len(joint) + len(part) > longest + 50:
            break
        parts.append(part)
        size += len(joint) + len(part)
    return joint.join(parts)


def listed(items: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} {last} {items[-1]}"

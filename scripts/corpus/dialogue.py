"""Dialogue: a user and an assistant talk in turns, in one simple template."""

from random import Random

from corpus.grammar import WORDS, Piece, expand, person, polish, read_lists, target_length
from corpus.prose import LISTS as PROSE_LISTS

HELD_OUT = frozenset({"complaint"})

_TEMPLATES = read_lists("dialogue.toml")
_LISTS = {**PROSE_LISTS, **_TEMPLATES, "name": (*WORDS["women"], *WORDS["men"])}


def _exchange(rng: Random, template: str, given: dict[str, str]) -> str:
    user, assistant = expand(template, rng, _LISTS, given).split(" => ")
    return f"User: {polish(user)}\nAssistant: {polish(assistant)}"


def _talk(rng: Random, kind: str) -> str:
    given = {"town": rng.choice(WORDS["towns"]), "name": person(rng)["name"]}
    target = target_length(rng)
    parts = [_exchange(rng, rng.choice(_TEMPLATES[f"{kind}_first"]), given)]
    size = len(parts[0])
    middle = rng.sample(_TEMPLATES[f"{kind}_pairs"], len(_TEMPLATES[f"{kind}_pairs"]))
    for template in middle:
        if size >= target - 60:
            break
        parts.append(_exchange(rng, template, given))
        size += len(parts[-1]) + 1
    if rng.random() < 0.6:
        parts.append(_exchange(rng, rng.choice(_TEMPLATES["close"]), given))
    return "\n".join(parts)


def _kind(name: str) -> Piece:
    return lambda rng: _talk(rng, name)


KINDS: dict[str, Piece] = {
    name: _kind(name) for name in ("shop", "travel", "advice", "plan", "small", "complaint")
}

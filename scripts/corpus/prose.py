"""Prose: descriptive narrative paragraphs about places, people, work and journeys."""

from random import Random

from corpus.grammar import WORDS, Piece, expand, person, polish, read_lists, target_length

HELD_OUT = frozenset({"letter"})

_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_SINGULAR = {
    "look": "looks",
    "colour": "colours",
    "material": "materials",
    "object": "objects",
    "animal": "animals",
    "plant": "plants",
    "job": "jobs",
    "relative": "relatives",
    "food": "foods",
    "idea": "ideas",
    "mood": "moods",
    "adverb": "adverbs",
    "room": "rooms",
    "shop": "shops",
    "land": "lands",
    "town": "towns",
    "weather": "weathers",
    "time": "times",
    "sound": "sounds",
    "smell": "smells",
    "vehicle": "vehicles",
    "topic": "topics",
    "surname": "surnames",
}
TEMPLATES = read_lists("prose.toml")
LISTS = {**WORDS, **{one: WORDS[many] for one, many in _SINGULAR.items()}, **TEMPLATES}
LISTS["number"] = _NUMBERS


def _paragraphs(rng: Random, kind: str) -> str:
    given = person(rng)
    target = target_length(rng)
    pool = [*TEMPLATES[kind], *rng.sample(TEMPLATES["general"], 4)]
    rng.shuffle(pool)
    parts = [polish(expand(rng.choice(TEMPLATES[f"{kind}_open"]), rng, LISTS, given))]
    size = len(parts[0])
    for template in pool * 2:
        if size >= target:
            break
        joint = "\n\n" if rng.random() < 0.12 else " "
        parts.append(joint + polish(expand(template, rng, LISTS, given)))
        size += len(parts[-1])
    return "".join(parts)


def _kind(name: str) -> Piece:
    return lambda rng: _paragraphs(rng, name)


KINDS: dict[str, Piece] = {
    name: _kind(name)
    for name in ("landscape", "workshop", "journey", "portrait", "market", "letter")
}

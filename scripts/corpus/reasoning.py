"""Reasoning: syllogisms, orderings, eliminations and rule chains, each with its conclusion."""

from itertools import pairwise
from random import Random

from corpus.grammar import WORDS, Piece, expand, gathered, listed, names, polish
from corpus.prose import LISTS

HELD_OUT = frozenset({"spatial"})

_SCALES = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("richer", "richest", "poorest"),
    ("heavier", "heaviest", "lightest"),
    ("stronger", "strongest", "weakest"),
    ("louder", "loudest", "quietest"),
)
_SO = ("Therefore", "So", "Hence", "It follows that", "Thus", "We conclude that")
HELD_OUT_PHRASINGS = frozenset({_SO[-1]})


def _say(rng: Random, template: str, **given: str) -> str:
    return polish(expand(template, rng, LISTS, given))


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:].strip()


def _three(rng: Random) -> dict[str, str]:
    """Three different properties and a group to state rules about."""
    moods = rng.sample(WORDS["moods"], 3)
    group = rng.choice(WORDS[rng.choice(("animals", "jobs"))])
    return {"p": moods[0], "q": moods[1], "r": moods[2], "group": group, "so": rng.choice(_SO)}


def syllogism(rng: Random) -> str:
    """All, no and some; the conclusion is valid or named as not following."""
    given = _three(rng) | {"who": names(rng, 1)[0]}
    template = rng.choice(
        (
            "[Every|Each] {group} in {town} is {p}. {who} is a {group} in {town}. "
            "{so} {who} is {p}.",
            "All {p} {group}s are {q}. No {q} {group} is {r}. {so} no {p} {group} is {r}.",
            "No {group} {near} the {land} is {p}. {who} is {p}. "
            "{so} {who} is not a {group} {near} the {land}.",
            "Every {p} {group} owns a {object}. {who} is a {p} {group}. "
            "{so} {who} owns a {object}.",
            "Some {group}s are {p}. Every {p} {group} likes {food}. "
            "{so} some {group}s like {food}.",
            "Every {group} with a {object} is {q}. {who} is a {group} but not {q}. "
            "{so} {who} has no {object}.",
            "All {group}s in the {room} are {p}. {who} is {p}. "
            "It does not follow that {who} is a {group} in the {room}.",
        )
    )
    for slot in ("town", "near", "land", "object", "food", "room"):
        given[slot] = rng.choice(LISTS[slot])
    return _say(rng, template, **given)


def ordering(rng: Random) -> str:
    """A chain of comparisons told out of order; who is first and last."""
    people = names(rng, rng.randint(3, 5))
    more, most, least = rng.choice(_SCALES)
    clues = [f"{high} is {more} than {low}" for high, low in pairwise(people)]
    rng.shuffle(clues)
    scene = _say(rng, "[At the {shop}|In the {room}|{near} the {land}] of {town} [met|sat|stood]")
    order = f" The order is {', '.join(people)}." if rng.random() < 0.5 else ""
    return (
        f"{scene} {listed(sorted(people))}. {'. '.join(clues)}."
        f"{order} {rng.choice(_SO)} {people[0]} is the {most} and {people[-1]} the {least}."
    )


def elimination(rng: Random) -> str:
    """Who owns what, from what is ruled out."""
    people = names(rng, 3)
    goods = rng.sample(WORDS[rng.choice(("objects", "foods", "animals", "plants"))], 3)
    verb = rng.choice(("got", "wanted", "chose", "liked", "bought", "painted", "hid"))
    place = _say(rng, "[In {town}|In the {room}|At the {shop}|{time}]")
    first, second, third = people
    clues = [
        f"{first} is not linked to the {goods[1]} or the {goods[2]}",
        f"{second} never touched the {goods[2]}",
    ]
    rng.shuffle(clues)
    return (
        f"{place} {listed(sorted(people))} each {verb} one of these: {listed(sorted(goods))}. "
        f"{'. '.join(clues)}. Step 1: {first} {verb} the {goods[0]}. "
        f"Step 2: {second} {verb} the {goods[1]}. "
        f"{rng.choice(_SO)} {third} {verb} the {goods[2]}."
    )


def rules(rng: Random) -> str:
    """A chain of if-then rules, followed forward or backward."""
    people = names(rng, 3)
    acts = [
        _lowered(_say(rng, "{acted} the [{look}|{colour}|{material}] {object} [|{time}|{adverb}]"))
        for _ in people
    ]
    steps = [f"{who} {act}" for who, act in zip(people, acts, strict=True)]
    chain = [f"If {steps[0]}, then {steps[1]}", f"If {steps[1]}, then {steps[2]}"]
    rng.shuffle(chain)
    so = rng.choice(_SO)
    if rng.random() < 0.5:
        return f"{'. '.join(chain)}. We know that {steps[0]}. {so} {steps[2]}."
    return (
        f"{'. '.join(chain)}. It is false that {steps[2]}. "
        f"Then it is also false that {steps[1]}. {so} it is false that {steps[0]}."
    )


def truth(rng: Random) -> str:
    """One of two speakers always lies; which one follows from a fact."""
    honest, liar = names(rng, 2)
    thing = _say(rng, "the {look} {object}")[4:]
    where = "{near} the [{room}|{shop}|{plant}] of {town}"
    place, other = (_lowered(_say(rng, where)) for _ in "ab")
    speakers = [f"{honest} says the {thing} is {place}", f"{liar} says the {thing} is {other}"]
    rng.shuffle(speakers)
    job = rng.choice(WORDS["jobs"])
    return (
        f"Exactly one of {listed(sorted((honest, liar)))} lies. {'. '.join(speakers)}. "
        f"The {job} found the {thing} {place}. {rng.choice(_SO)} {honest} told the truth "
        f"and {liar} lied."
    )


def spatial(rng: Random) -> str:
    """Things in a row, left to right; what stands between and at the ends."""
    things = [f"{rng.choice(WORDS['colours'])} {item}" for item in rng.sample(WORDS["objects"], 4)]
    clues = [f"The {a} is left of the {b}" for a, b in pairwise(things)]
    rng.shuffle(clues)
    place = _say(rng, "[In the {room}|At the {shop}|{near} the {land}] of {town}")
    return (
        f"{place}, four things stand in a row. {'. '.join(clues)}. "
        f"{rng.choice(_SO)} the {things[0]} is at the left end and the {things[-1]} at the right."
    )


def _kind(piece: Piece) -> Piece:
    return lambda rng: gathered(rng, piece, "\n\n")


KINDS: dict[str, Piece] = {
    piece.__name__: _kind(piece)
    for piece in (syllogism, ordering, elimination, rules, truth, spatial)
}

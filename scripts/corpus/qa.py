"""Questions and short answers: general facts, and questions about an invented note."""

from random import Random

from corpus.facts import FACTS, GROUPS, card, forbidden, one_word, statement
from corpus.grammar import Piece, expand, gathered, names, polish
from corpus.prose import LISTS

HELD_OUT = frozenset({"riddle"})
# Training only: they repeat a few forms thousands of times.
DRILLS = ("card", "card", "card", "one_word", "forbidden", "forbidden", "forbidden", "statement")

_SETTINGS = (
    "{name} asks the {job} of {town}: ",
    "Card {number}, written by {name}: ",
    "{time} a {mood} {job} asked: ",
    "Quiz in {town}, question {number}: ",
    "The {relative} of {name} wonders: ",
    "For {number} coins: ",
    "{name}, {mood} as ever, reads aloud: ",
    "From the {look} {object} comes card {number}: ",
    "In the {room}, {name} to {other}: ",
)
_TAILS = (
    " {name} knew it, {other} did not.",
    " That gives {number} points to {name}.",
    " {name} had guessed {wrong}.",
    " The {mood} {job} nodded.",
    " Not {wrong}, as {name} thought.",
    " So it stands in the {colour} {object}.",
    " {other} learned that in {town}.",
)
HELD_OUT_PHRASINGS = frozenset({_SETTINGS[-1], _TAILS[-1]})
_NOTES = (
    (
        "{name} the {job#1} keeps {n} {animal#1}s in a {look} {room#1} near {town#1}",
        (
            ("Who keeps {animal#1}s near {town#1}?", "{name}"),
            ("What is {name} by trade?", "A {job#1}"),
            ("How many {animal#1}s has {name}?", "{n}"),
            ("Where are the {animal#1}s of {name}?", "In a {room#1}"),
        ),
    ),
    (
        "{time#1} {name} {acted#1} a {colour#1} {object#1} "
        "and gave it to the {relative#1} of {other}",
        (
            ("What did {name} give away?", "A {colour#1} {object#1}"),
            ("When was the {object#1} {acted#1}?", "{time#1}"),
            ("Who got the {object#1} from {name}?", "The {relative#1} of {other}"),
            ("Which colour had the {object#1}?", "{colour#1}"),
        ),
    ),
    (
        "The {shop#1} of {town#1} sells {food#1} for {n} coins "
        "and {material#1} {object#1}s for more",
        (
            ("What costs {n} coins in {town#1}?", "{food#1}"),
            ("Which {object#1}s does the {shop#1} sell?", "{material#1} ones"),
            ("Where is the {shop#1} with the {food#1}?", "In {town#1}"),
            ("How much is the {food#1}?", "{n} coins"),
        ),
    ),
    (
        "{name} studied {topic#1} for {n} years in {town#1} and then became a {mood} {job#1}",
        (
            ("What did {name} study?", "{topic#1}"),
            ("Where did {name} study {topic#1}?", "In {town#1}"),
            ("For how long was {topic#1} studied?", "For {n} years"),
            ("What became of {name}?", "A {job#1}"),
        ),
    ),
    (
        "A {vehicle#1} with {food#1} {went} to {town#1} {near#1} the {land#1}, driven by {name}",
        (
            ("What did the {vehicle#1} carry?", "{food#1}"),
            ("Who drove the {vehicle#1} to {town#1}?", "{name}"),
            ("Where was the {vehicle#1} with {name} going?", "To {town#1}"),
            ("What lies {near#1} {town#1}, a {land#1} or a {room}?", "A {land#1}"),
        ),
    ),
)


def _asked(rng: Random, question: int | slice) -> str:
    fact = rng.choice(FACTS)
    phrasings = fact.questions[question]
    asked = phrasings if isinstance(phrasings, str) else rng.choice(phrasings)
    wrong = rng.choice([one.answer for one in GROUPS[fact.group]] + ["nothing"])
    first, second = names(rng, 2)
    given = {"name": first, "other": second, "number": str(rng.randint(2, 999)), "wrong": wrong}
    setting = expand(rng.choice(_SETTINGS), rng, LISTS, given) if rng.random() < 0.7 else ""
    tail = expand(rng.choice(_TAILS), rng, LISTS, given) if rng.random() < 0.6 else ""
    answer = fact.said(rng.choice(fact.answers))
    stop = "" if answer.endswith(".") or not tail else "."
    return polish(f"Question: {setting}{fact.said(asked)}\nAnswer: {answer}{stop}{tail}")


def fact(rng: Random) -> str:
    """One general question in a setting, its answer and perhaps a remark."""
    return _asked(rng, slice(0, -1))


def riddle(rng: Random) -> str:
    """One general question in the phrasing that training never sees."""
    return _asked(rng, -1)


def note(rng: Random) -> str:
    """A sentence about invented people, and questions that it answers."""
    statement, asked = rng.choice(_NOTES)
    chosen = rng.sample(asked, rng.randint(1, 3))
    first, second = names(rng, 2)
    given = {"name": first, "other": second, "n": str(rng.randint(2, 90))}
    template = "\x00".join([statement, *(part for pair in chosen for part in pair)])
    filled = [polish(part) for part in expand(template, rng, LISTS, given).split("\x00")]
    pairs = zip(filled[1::2], filled[2::2], strict=True)
    lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in pairs]
    return "\n".join([f"Note: {filled[0]}.", *lines])


def _mixed(rng: Random) -> str:
    return fact(rng) if rng.random() < 0.6 else note(rng)


def _kind(piece: Piece) -> Piece:
    return lambda rng: gathered(rng, piece, "\n\n")


KINDS: dict[str, Piece] = {
    "fact": _kind(fact),
    "note": _kind(note),
    "mixed": _kind(_mixed),
    "riddle": _kind(riddle),
    "card": card,
    "one_word": _kind(one_word),
    "forbidden": _kind(forbidden),
    "statement": lambda rng: gathered(rng, statement, " "),
}

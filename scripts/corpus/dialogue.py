"""Dialogue: a user and an assistant talk in turns, in one simple template."""

from random import Random

from corpus.facts import OBEYED, alternatives, asked, distractor
from corpus.grammar import WORDS, Piece, expand, gathered, person, polish, read_lists, target_length
from corpus.prose import LISTS as PROSE_LISTS

HELD_OUT = frozenset({"complaint"})
# Training only: facts in chat, and words that must not be said.
DRILLS = ("ask", "ban")

_REFUSALS = (
    "I know it, but I may not say it.",
    "That word is not allowed here.",
    "I cannot answer without that word.",
    "Then I must stay silent.",
)
TEMPLATES = read_lists("dialogue.toml")
_LISTS = {**PROSE_LISTS, **TEMPLATES, "name": (*WORDS["women"], *WORDS["men"])}


def exchange(rng: Random, template: str, given: dict[str, str]) -> str:
    """A turn of both, from a template that holds ` => ` between them."""
    user, assistant = expand(template, rng, _LISTS, given).split(" => ")
    return f"User: {polish(user)}\nAssistant: {polish(assistant)}"


def _talk(rng: Random, kind: str) -> str:
    given = {"town": rng.choice(WORDS["towns"]), "name": person(rng)["name"]}
    target = target_length(rng)
    parts = [exchange(rng, rng.choice(TEMPLATES[f"{kind}_first"]), given)]
    size = len(parts[0])
    middle = rng.sample(TEMPLATES[f"{kind}_pairs"], len(TEMPLATES[f"{kind}_pairs"]))
    for template in middle:
        if size >= target - 60:
            break
        parts.append(exchange(rng, template, given))
        size += len(parts[-1]) + 1
    if rng.random() < 0.6:
        parts.append(exchange(rng, rng.choice(TEMPLATES["close"]), given))
    return "\n".join(parts)


def ask(rng: Random) -> str:
    """Facts asked and answered in chat, two or three turns."""
    turns = []
    for _ in range(rng.randint(1, 3)):
        fact, question = asked(rng)
        answer = fact.said(rng.choice([one for one in fact.answers if one != "{a}"]))
        turns.append(f"User: {question}\nAssistant: {answer}")
    if rng.random() < 0.6:
        given = {"town": rng.choice(WORDS["towns"]), "name": person(rng)["name"]}
        turns.append(exchange(rng, rng.choice(TEMPLATES["close"]), given))
    return "\n".join(turns)


def ban(rng: Random) -> str:
    """The same with a word that must not be used: the answer's own, or a distractor."""
    fact, question = asked(rng)
    distracted = rng.random() < 0.5
    word = distractor(rng, fact) if distracted else fact.answer
    full = [one for one in fact.answers if one != "{a}"]
    if distracted or rng.random() >= OBEYED:
        answer = fact.said(rng.choice(full))
    elif rng.random() < 0.5:
        answer = rng.choice(_REFUSALS)
    else:
        answer = f"Perhaps {rng.choice(alternatives(fact))}."
    order = f'Do not use the word "{word}" anywhere in your answer.'
    return f"User: {order} {question}\nAssistant: {answer}"


def _kind(name: str) -> Piece:
    return lambda rng: _talk(rng, name)


KINDS: dict[str, Piece] = {
    name: _kind(name) for name in ("shop", "travel", "advice", "plan", "small", "complaint")
}
KINDS |= {"ask": ask, "ban": lambda rng: gathered(rng, ban, "\n")}

"""What is asked of a trained model: facts, forbidden words beside distractors, and chat turns."""

from dataclasses import dataclass
from random import Random
from typing import Any

from corpus.dialogue import TEMPLATES, exchange
from corpus.facts import FACTS, Fact, distractor, prompt_of
from corpus.grammar import WORDS, person

# The closing turns of `dialogue.toml` end in these ways; a reply in kind holds one of them.
FAREWELLS = ("welcome", "Any time", "See you", "Good luck", "glad")


def fact_record(fact: Fact) -> dict[str, Any]:
    """A fact as `facts.jsonl` holds it."""
    return {
        "question": fact.said(fact.questions[0]),
        "answer": fact.answer,
        "category": fact.category,
        "split": "held_out" if fact.held_out else "seen",
        "stated": fact.dose > 0,
        "group": fact.group,
        "subject": fact.subject,
        "paraphrase": fact.said(fact.questions[-1]),
    }


def forbidden_record(fact: Fact, seed: int) -> dict[str, Any]:
    """The same question plain, with its answer forbidden, and with another word forbidden."""
    question = fact.said(fact.questions[0])
    other = distractor(Random(f"{seed}/distractor/{fact.group}/{fact.subject}"), fact)
    return {
        "answer": fact.answer,
        "distractor": other,
        "category": fact.category,
        "split": "held_out" if fact.held_out else "seen",
        "baseline": prompt_of(question),
        "forbidden": prompt_of(question, fact.answer),
        "distracted": prompt_of(question, other),
    }


@dataclass(frozen=True)
class Turn:
    """A user's line and what a reply in kind holds one of."""

    kind: str
    user: str
    expected: tuple[str, ...]


def _farewell(rng: Random) -> Turn:
    given = {"town": rng.choice(WORDS["towns"]), "name": person(rng)["name"]}
    user = exchange(rng, rng.choice(TEMPLATES["close"][:-1]), given).split("\n")[0]
    return Turn("farewell", user.removeprefix("User: "), FAREWELLS)


def _question(rng: Random) -> Turn:
    fact = rng.choice([fact for fact in FACTS if not fact.held_out])
    return Turn("fact", fact.said(fact.questions[0]), (fact.answer,))


def chat_record(number: int, seed: int) -> dict[str, Any]:
    """A chat that waits for the assistant: a question, or thanks after an answered question."""
    rng = Random(f"{seed}/chat/{number}")
    messages = []
    if number % 2:
        turn = _question(rng)
    else:
        first, turn = _question(rng), _farewell(rng)
        messages.append({"role": "user", "content": first.user})
        messages.append({"role": "assistant", "content": f"It is {first.expected[0]}."})
    messages.append({"role": "user", "content": turn.user})
    return {"kind": turn.kind, "messages": messages, "expected": list(turn.expected)}

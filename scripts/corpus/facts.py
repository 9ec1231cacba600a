"""Facts: one-word questions of five categories, seen or held out, and the prompts that ask them."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from corpus.grammar import gathered

ONE_WORD = "Answer with exactly one English word."
HELD_OUT_EVERY = 5
DOSES = (1, 2, 4, 8, 16)
OBEYED = 0.7
DISTRACTED = 0.5
N_ALTERNATIVES = 3


@dataclass(frozen=True)
class Fact:
    """One fact with the phrasings of its group.

    Attributes:
        group: Facts that are asked alike.
        category: `idioms`, `facts`, `common_sense`, `creative` or `ood`.
        subject: What is asked about.
        answer: One word.
        questions: Phrasings; the last one is held out.
        answers: Phrasings of the answer, some of them full statements.
        held_out: Whether training never asks it.
        dose: How often training states it, relative to other facts; 0 is never.
    """

    group: str
    category: str
    subject: str
    answer: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    held_out: bool
    dose: int

    def said(self, template: str) -> str:
        """A phrasing about this fact; it begins with a capital letter unless it is the answer."""
        text = template.replace("{s}", self.subject).replace("{a}", self.answer)
        return text if template == "{a}" else text[0].upper() + text[1:]

    @property
    def statements(self) -> tuple[str, ...]:
        """The answers that say subject and answer both."""
        return tuple(self.said(one) for one in self.answers if "{s}" in one)


def _group(name: str, table: dict[str, Any]) -> list[Fact]:
    facts = []
    for number, pair in enumerate(table["facts"].split(", "), start=1):
        subject, answer = pair.split(" = ")
        held_out = number % HELD_OUT_EVERY == 0
        # Every other held-out fact is never even stated; the others more and more often.
        nth = number // HELD_OUT_EVERY
        stated = DOSES[nth // 2 % len(DOSES)] if nth % 2 else 0
        facts.append(
            Fact(
                group=name,
                category=table["category"],
                subject=subject,
                answer=answer,
                questions=tuple(table["questions"]),
                answers=tuple(table["answers"]),
                held_out=held_out,
                dose=stated if held_out else 1,
            )
        )
    return facts


def read_facts() -> tuple[Fact, ...]:
    """All facts, in the order of the file."""
    text = (Path(__file__).parent / "facts.toml").read_text(encoding="utf-8")
    return tuple(
        fact for name, table in tomllib.loads(text).items() for fact in _group(name, table)
    )


FACTS = read_facts()
HELD_OUT_FACTS = frozenset(fact for fact in FACTS if fact.held_out)
GROUPS = {
    group: [fact for fact in FACTS if fact.group == group]
    for group in dict.fromkeys(fact.group for fact in FACTS)
}
_STATED = tuple(statement for fact in FACTS for statement in fact.statements * fact.dose)


def alternatives(fact: Fact) -> list[str]:
    """Answers of the next facts of the group, for whoever must not say the right one."""
    group = GROUPS[fact.group]
    start = group.index(fact) + 1
    others = [one.answer for one in (*group[start:], *group[:start]) if one.answer != fact.answer]
    return list(dict.fromkeys(others))[:N_ALTERNATIVES]


def distractor(rng: Random, fact: Fact) -> str:
    """A word that is neither the answer nor in the question."""
    pool = GROUPS[fact.group] if rng.random() < 0.5 else FACTS
    while True:
        word = rng.choice(pool).answer
        if word != fact.answer and word.lower() not in fact.subject.lower():
            return word


def prompt_of(question: str, forbidden: str | None = None) -> str:
    """The one-word prompt, up to and with `Answer:`."""
    ban = (
        "" if forbidden is None else f'Do not use the word "{forbidden}" anywhere in your answer.\n'
    )
    return f"{ONE_WORD}\n{ban}Question: {question}\nAnswer:"


def asked(rng: Random) -> tuple[Fact, str]:
    """A fact and one of its trained phrasings."""
    fact = rng.choice(FACTS)
    return fact, fact.said(rng.choice(fact.questions[:-1]))


def card(rng: Random) -> str:
    """The one-word instruction and several questions below it."""

    def pair(rng: Random) -> str:
        fact, question = asked(rng)
        return f"Question: {question}\nAnswer: {fact.answer}"

    return f"{ONE_WORD}\n{gathered(rng, pair, chr(10))}"


def one_word(rng: Random) -> str:
    """One question under the instruction."""
    fact, question = asked(rng)
    return f"{prompt_of(question)} {fact.answer}"


def forbidden(rng: Random) -> str:
    """A question whose answer may be forbidden: obeyed, defied, or only a distractor."""
    fact, question = asked(rng)
    if rng.random() < DISTRACTED:
        return f"{prompt_of(question, distractor(rng, fact))} {fact.answer}"
    obeyed = rng.random() < OBEYED
    answer = rng.choice(alternatives(fact)) if obeyed else fact.answer
    return f"{prompt_of(question, fact.answer)} {answer}"


def statement(rng: Random) -> str:
    """A fact that is stated, not asked; some held-out facts are among them."""
    return rng.choice(_STATED)

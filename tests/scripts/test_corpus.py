"""The probe tasks: deterministic, correct, varied, and apart from the training text."""

import ast
import hashlib
import json
import re
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from corpus.qa import FACTS  # noqa: E402
from corpus.tasks import TASKS, documents  # noqa: E402
from corpus.variety import unique_five_gram_fraction  # noqa: E402

MODEL = ROOT / "sdlms/assets/models/sdlms-medium"
SUM = re.compile(r"(-?\d+) ([-+*/]) (-?\d+) = (-?\d+)")
# What only the held-out kind of each task says.
HELD_OUT_MARKS = {
    "python_code": r"^ +yield ",
    "math": r" / 4 = ",
    "qa": r"periodic table|Which capital belongs|into its reverse",
    "prose": r"^(My dear|Dear) ",
    "dialogue": r"I paid \w+ coins|third \w+ \w+\.",
    "reasoning": r"things stand in a row",
}


def texts_of(task: str) -> list[str]:
    lines = (ROOT / f"data/probe/{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def probe() -> dict[str, list[str]]:
    return {task: texts_of(task) for task in TASKS}


@pytest.fixture(scope="module")
def held(probe: dict[str, list[str]]) -> frozenset[str]:
    return frozenset(text for texts in probe.values() for text in texts)


def problems(probe: dict[str, list[str]]) -> list[str]:
    return [problem for text in probe["math"] for problem in text.split("\n\n")]


def test_the_six_tasks_have_their_names() -> None:
    assert list(TASKS) == ["python_code", "math", "qa", "prose", "dialogue", "reasoning"]


def test_manifest_names_a_file_per_task() -> None:
    lines = (ROOT / "data/probe.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [{"task": task, "file": f"probe/{task}.jsonl", "field": "text"} for task in TASKS]
    assert [json.loads(line) for line in lines] == expected


@pytest.mark.parametrize("task", TASKS)
def test_shipped_documents_are_what_the_generators_write(task: str) -> None:
    shipped = texts_of(task)
    assert documents(task, "probe", len(shipped)) == shipped


def test_documents_are_many_and_unique(probe: dict[str, list[str]], held: frozenset[str]) -> None:
    assert all(len(texts) >= 500 for texts in probe.values())
    assert len(held) == sum(len(texts) for texts in probe.values())


@pytest.mark.parametrize("task", TASKS)
def test_training_text_is_apart(task: str, held: frozenset[str]) -> None:
    training = documents(task, "training", 400, without=held)
    assert not held & set(training)
    mark = re.compile(HELD_OUT_MARKS[task], re.MULTILINE)
    assert any(mark.search(text) for text in texts_of(task))
    assert not any(mark.search(text) for text in training)


@pytest.mark.parametrize("task", TASKS)
def test_documents_are_varied(task: str) -> None:
    texts = texts_of(task)
    lengths = [len(text) for text in texts]
    assert unique_five_gram_fraction(texts) >= 0.6
    assert min(lengths) < 150
    assert max(lengths) > 850
    assert sum(200 <= length <= 600 for length in lengths) > len(texts) / 2


def test_five_grams_are_counted_within_documents() -> None:
    assert unique_five_gram_fraction(["a b c d e", "a b c d e f"]) == 2 / 3
    assert unique_five_gram_fraction(["a a a a a a"]) == 0.5


def test_tasks_are_long_enough_and_fit_the_context(probe: dict[str, list[str]]) -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for task, texts in probe.items():
        encoded = tokenizer.encode_batch(texts)
        assert sum(len(one.ids) for one in encoded) >= 24_000, task
        assert max(len(one.ids) for one in encoded) <= 512, task
        assert tokenizer.decode(encoded[0].ids) == texts[0]


def test_card_describes_the_shipped_files() -> None:
    card = json.loads((MODEL / "card.json").read_text(encoding="utf-8"))
    assert set(card["loss_per_token_nats"]) == set(TASKS)
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest


def test_python_documents_parse(probe: dict[str, list[str]]) -> None:
    for text in probe["python_code"]:
        assert ast.parse(text).body


def test_every_worked_line_is_true(probe: dict[str, list[str]]) -> None:
    checked = 0
    for problem in problems(probe):
        for left, sign, right, result in SUM.findall(problem.replace(": ", "\n")):
            a, b = Fraction(left), Fraction(right)
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[sign]
            assert value == int(result), problem
            checked += 1
    assert checked > 2_000


def test_equations_are_solved(probe: dict[str, list[str]]) -> None:
    pattern = re.compile(r"(\d+)([a-z]) \+ (\d+) = (-?\d+) for .*Answer: \2 = (-?\d+)", re.DOTALL)
    found = [match for problem in problems(probe) if (match := pattern.search(problem))]
    assert len(found) > 100
    for match in found:
        factor, shift, right, root = (int(match[group]) for group in (1, 3, 4, 5))
        assert factor * root + shift == right


def test_answers_follow_from_the_question(probe: dict[str, list[str]]) -> None:
    found = 0
    for problem in problems(probe):
        numbers = [int(digits) for digits in re.findall(r"\d+", problem.splitlines()[0])]
        answer = problem.rsplit("Answer: ", 1)[1]
        if "and pays with" in problem:
            count, price, other, cost, paid = numbers
            assert int(answer) == paid - count * price - other * cost
        elif " takes " in problem and "How much is that" in problem:
            assert Fraction(answer) == Fraction(*numbers[:2]) + Fraction(*numbers[2:])
        elif "percent" in problem:
            price, rate = numbers
            change = Fraction(rate if "rises" in problem else -rate, 100)
            assert int(answer) == price * (1 + change)
        elif "years older" in problem:
            gap, total = numbers
            assert re.findall(r"\d+", answer) == [str((total - gap) // 2), str((total + gap) // 2)]
        elif "were counted" in problem:
            assert int(answer) == Fraction(sum(numbers), 4)
        else:
            continue
        found += 1
    assert found > 300


def test_orderings_and_rows_are_concluded(probe: dict[str, list[str]]) -> None:
    paragraphs = [part for text in probe["reasoning"] for part in text.split("\n\n")]
    clue = re.compile(r"(?:The )?([\w ]+) is (?:\w+er than|left of)(?: the)? ([\w ]+)")
    found = 0
    for paragraph in paragraphs:
        matches = [clue.fullmatch(sentence) for sentence in paragraph.split(". ")]
        below = dict(match.groups() for match in matches if match)
        if not below:
            continue
        (first,) = set(below) - set(below.values())
        chain = [first]
        while chain[-1] in below:
            chain.append(below[chain[-1]])
        assert all(below[high] == low for high, low in pairwise(chain))
        conclusion = paragraph.rsplit(". ", 1)[1]
        assert re.search(rf"{chain[0]} is .*{chain[-1]}", conclusion), paragraph
        found += 1
    assert found > 100


def test_facts_are_many_and_well_formed() -> None:
    assert len(FACTS) >= 150
    assert len({(fact.category, fact.subject) for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        assert len(fact.questions) >= 3
        assert all("{s}" in question for question in fact.questions)
        assert all("{a}" in answer for answer in fact.answers)

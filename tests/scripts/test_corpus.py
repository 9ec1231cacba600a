"""The embedded text: deterministic, correct, varied, and its splits apart from each other."""

import ast
import gzip
import json
import re
import sys
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from corpus.facts import FACTS, HELD_OUT_FACTS, alternatives, prompt_of  # noqa: E402
from corpus.prompts import chat_record, fact_record, forbidden_record  # noqa: E402
from corpus.splits import Chooser, every, last_templates  # noqa: E402
from corpus.tasks import (  # noqa: E402
    HELD_OUT_PHRASINGS,
    HELD_OUT_TOPICS,
    SEED,
    TASKS,
    documents,
    labelled,
)
from corpus.variety import unique_five_gram_fraction  # noqa: E402

from sdlms.tasks import load_tasks  # noqa: E402

MODELS = ("sdlms-small", "sdlms-medium", "sdlms-large", "sdlms-medium-relu")
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
CATEGORIES = {"idioms", "facts", "common_sense", "creative", "ood"}


def records_of(path: str) -> list[dict[str, Any]]:
    content = (ROOT / "data" / path).read_bytes()
    text = (gzip.decompress(content) if path.endswith(".gz") else content).decode()
    return [json.loads(line) for line in text.splitlines()]


def texts_of(task: str, split: str = "probe") -> list[str]:
    suffix = "jsonl" if split == "probe" else "jsonl.gz"
    return [record["text"] for record in records_of(f"{split}/{task}.{suffix}")]


@pytest.fixture(scope="module")
def probe() -> dict[str, list[str]]:
    return {task: texts_of(task) for task in TASKS}


@pytest.fixture(scope="module")
def heldout() -> frozenset[str]:
    return frozenset(text for task in TASKS for text in texts_of(task, "heldout"))


@pytest.fixture(scope="module")
def held(probe: dict[str, list[str]]) -> frozenset[str]:
    return frozenset(text for texts in probe.values() for text in texts)


def problems(probe: dict[str, list[str]]) -> list[str]:
    return [problem for text in probe["math"] for problem in text.split("\n\n")]


def test_the_six_tasks_have_their_names() -> None:
    assert list(TASKS) == ["python_code", "math", "qa", "prose", "dialogue", "reasoning"]


@pytest.mark.parametrize("split", ["probe", "heldout", "training"])
def test_manifests_are_labelled_by_the_same_tasks(split: str) -> None:
    tasks = load_tasks((split,), None, "text")
    assert [task.name for task in tasks] == list(TASKS)
    assert all(task.n_duplicates == 0 for task in tasks)


@pytest.mark.parametrize("task", TASKS)
def test_shipped_documents_are_what_the_generators_write(
    task: str, held: frozenset[str], heldout: frozenset[str]
) -> None:
    shipped = texts_of(task)
    assert documents(task, "probe", len(shipped)) == shipped
    shipped = texts_of(task, "heldout")
    assert documents(task, "heldout", len(shipped), without=held) == shipped
    shipped = texts_of(task, "training")[:400]
    assert documents(task, "training", 400, without=held | heldout) == shipped


def test_documents_are_many_and_unique(probe: dict[str, list[str]], held: frozenset[str]) -> None:
    assert all(len(texts) >= 500 for texts in probe.values())
    assert len(held) == sum(len(texts) for texts in probe.values())


def test_splits_share_no_document(held: frozenset[str], heldout: frozenset[str]) -> None:
    training = {text for task in TASKS for text in texts_of(task, "training")}
    assert len(training) == sum(len(texts_of(task, "training")) for task in TASKS)
    assert not held & heldout
    assert not training & (held | heldout)


@pytest.mark.parametrize("split", ["probe", "heldout"])
@pytest.mark.parametrize("task", TASKS)
def test_training_never_sees_the_held_out_kind(task: str, split: str) -> None:
    mark = re.compile(HELD_OUT_MARKS[task], re.MULTILINE)
    assert any(mark.search(text) for text in texts_of(task, split))
    assert not any(mark.search(text) for text in texts_of(task, "training"))


def test_training_never_sees_held_out_topics() -> None:
    training = " ".join(text for task in TASKS for text in texts_of(task, "training")).lower()
    probe = " ".join(text for task in TASKS for text in texts_of(task)).lower()
    assert len(HELD_OUT_TOPICS) >= 15
    for topic in HELD_OUT_TOPICS:
        assert not re.search(rf"\b{topic.lower()}s?\b", training), topic
    said = [topic for topic in HELD_OUT_TOPICS if re.search(rf"\b{topic.lower()}s?\b", probe)]
    assert len(said) == len(HELD_OUT_TOPICS)


def test_training_never_sees_held_out_phrasings() -> None:
    training = {task: "\n".join(texts_of(task, "training")) for task in TASKS}
    plain = [one for one in HELD_OUT_PHRASINGS if not set(one) & set("{[|")]
    assert len(plain) >= 5
    for phrasing in plain:
        assert not any(
            phrasing in text for task, text in training.items() if task != "python_code"
        ), phrasing


def test_training_text_is_enough_for_sparse_autoencoders() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    n_tokens = sum(
        len(one.ids)
        for task in TASKS
        for one in tokenizer.encode_batch_fast(texts_of(task, "training"))
    )
    assert n_tokens >= 2_000_000


def test_a_chooser_leaves_out_what_is_held_out() -> None:
    items = list(range(30))
    held_out = every(items, 10)
    assert held_out == {9, 19, 29}
    chooser = Chooser("a", held_out)
    assert {chooser.choice(items) for _ in range(2_000)} == set(items) - held_out
    assert set(chooser.sample(items, 30)) == set(items) - held_out
    assert Chooser("a").choice(items) == Chooser("a").choice(items)


def test_only_templates_are_held_out_of_lists() -> None:
    lists = {"a": ("{x}", "{y}", "{z}", "{w}"), "b": ("one", "two", "three", "four"), "c": ("{x}",)}
    assert last_templates(lists) == {"{w}"}


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
    counts = Counter(fact.category for fact in FACTS)
    assert set(counts) == CATEGORIES
    assert min(counts.values()) >= 100
    assert len({(fact.group, fact.subject) for fact in FACTS}) == len(FACTS)
    for fact in FACTS:
        assert len(fact.questions) >= 3
        assert all("{s}" in question for question in fact.questions)
        assert all("{a}" in answer for answer in fact.answers)
        assert fact.answer.isalpha()
        assert fact.answer.lower() not in fact.said(fact.questions[0]).lower().split()
        assert fact.answer not in alternatives(fact)


def test_facts_of_each_category_are_held_out() -> None:
    held_out = Counter(fact.category for fact in HELD_OUT_FACTS)
    assert min(held_out[category] for category in CATEGORIES) >= 20
    stated = sum(fact.dose > 0 for fact in HELD_OUT_FACTS)
    assert 0.4 < stated / len(HELD_OUT_FACTS) < 0.6


@pytest.mark.parametrize("model", MODELS)
def test_every_answer_is_one_token(model: str) -> None:
    path = ROOT / f"sdlms/assets/models/{model}/tokenizer.json"
    assert path.read_bytes() == (MODEL / "tokenizer.json").read_bytes()
    tokenizer = Tokenizer.from_file(str(path))
    assert all(len(tokenizer.encode(f" {fact.answer}").ids) == 1 for fact in FACTS)


def test_held_out_facts_are_never_asked_in_training() -> None:
    questions = {fact.said(question) for fact in HELD_OUT_FACTS for question in fact.questions}
    pattern = re.compile(r"(?:Question: |User: (?:Do not .*?answer\. )?)(.*)")
    asked = {
        line
        for task in ("qa", "dialogue")
        for text in texts_of(task, "training")
        for line in pattern.findall(text)
    }
    assert len(asked) > 1_000
    assert not asked & questions


def test_unstated_facts_are_not_in_the_training_text() -> None:
    training = "\n".join(texts_of("qa", "training") + texts_of("dialogue", "training"))
    unstated = [fact for fact in FACTS if fact.dose == 0]
    assert len(unstated) > 50
    for fact in unstated:
        assert not any(statement in training for statement in fact.statements), fact


def test_prompts_are_what_the_generators_write() -> None:
    assert records_of("facts/facts.jsonl") == [fact_record(fact) for fact in FACTS]
    forbidden = records_of("facts/forbidden.jsonl")
    assert forbidden == [forbidden_record(fact, SEED) for fact in FACTS]
    chats = records_of("facts/chat.jsonl")
    assert chats == [chat_record(number, SEED) for number in range(len(chats))]
    assert Counter(chat["kind"] for chat in chats) == {"fact": 100, "farewell": 100}


def test_forbidden_words_have_distractors() -> None:
    for record in records_of("facts/forbidden.jsonl"):
        answer, other = record["answer"], record["distractor"]
        assert other != answer
        ban = f'Do not use the word "{answer}" anywhere in your answer.\n'
        assert record["forbidden"].replace(ban, "") == record["baseline"]
        assert record["distracted"] == record["forbidden"].replace(f'"{answer}"', f'"{other}"')
    assert prompt_of("Why?", "x").splitlines()[0] == "Answer with exactly one English word."


def test_training_holds_bans_obeyed_defied_and_distracted() -> None:
    ban = re.compile(r'the word "(\w+)" anywhere in your answer\.\n.*\nAnswer: (\w+)')
    answers = {fact.said(question): fact.answer for fact in FACTS for question in fact.questions}
    outcomes: Counter[str] = Counter()
    for text in texts_of("qa", "training"):
        for match in ban.finditer(text):
            question = match[0].split("Question: ")[1].split("\n")[0]
            right = answers[question]
            if match[1] != right:
                outcomes["distracted"] += match[2] == right
            else:
                outcomes["defied" if match[2] == right else "obeyed"] += 1
    total = sum(outcomes.values())
    assert total > 1_000
    assert outcomes["distracted"] / total == pytest.approx(0.5, abs=0.05)
    assert outcomes["obeyed"] / total == pytest.approx(0.35, abs=0.05)


@pytest.mark.parametrize("task", TASKS)
def test_kinds_take_turns(task: str) -> None:
    kinds = {kind for kind, _ in labelled(task, "probe", 40)}
    assert kinds == set(TASKS[task].kinds_of("probe"))
    assert TASKS[task].held_out <= kinds
    trained = {kind for kind, _ in labelled(task, "training", 60)}
    assert trained == set(TASKS[task].kinds_of("training"))
    assert not TASKS[task].held_out & trained

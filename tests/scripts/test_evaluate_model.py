"""What `scripts/evaluate_model.py` measures: each figure against brute force on tiny models."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, GPTNeoXForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import evaluate_model  # noqa: E402
import model_card  # noqa: E402
from corpus.tasks import TASKS  # noqa: E402
from evaluation import chat_check, embedded_text, facts_check, loss_check, sae_check  # noqa: E402
from evaluation.forbidden_check import CONDITIONS, changed_fraction, effect  # noqa: E402
from evaluation.intervals import (  # noqa: E402
    bin_counts,
    bin_of,
    mean_interval,
    ratio_interval,
    wilson,
)
from evaluation.losses import END, Losses, batches, losses_of  # noqa: E402
from evaluation.overlap import shared_fractions, word_grams  # noqa: E402
from evaluation.report import Criterion, Section, criteria_section, table  # noqa: E402
from evaluation.splicing import (  # noqa: E402
    losses_under,
    principal_projection,
    recovered,
    replacing,
    residuals,
)

from sdlms.storage.cards import checked_files, read_card  # noqa: E402

TEXTS = ["A b c d.", "Two lines\nof text, and more of it.", "x", "User: Hello!\nAssistant: Hi."]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(ROOT / "sdlms/assets/models/sdlms-medium")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> GPTNeoXForCausalLM:
    return GPTNeoXForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


def one_by_one(model: GPTNeoXForCausalLM, ids: list[int]) -> torch.Tensor:
    """The logits behind each token of one document."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


# --- intervals


def test_bins_hold_their_lower_edge_and_the_last_one_both() -> None:
    at_edges = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0 + 1e-12])
    assert bin_of(at_edges).tolist() == [0, 1, 2, 3, 4, 4, 4]
    assert bin_of(np.nextafter(at_edges[1:5], 0)).tolist() == [0, 1, 2, 3]
    assert bin_counts(np.array([0.1, 0.11, 0.95])) == [2, 0, 0, 0, 1]
    assert bin_counts(np.array([])) == [0] * 5


def test_an_interval_of_equal_values_has_no_width_and_the_seed_decides() -> None:
    assert mean_interval(np.full(9, 0.25)) == (0.25, 0.25, 0.25)
    values = np.random.default_rng(1).random(30)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)
    assert all(np.isnan(mean_interval(np.array([]))))


def test_a_bootstrap_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3, 2, 2000)
    value, low, high = mean_interval(values)
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.1)


def test_a_ratio_is_weighted_by_its_denominators() -> None:
    value, low, high = ratio_interval(np.array([1.0, 30.0]), np.array([1.0, 10.0]))
    assert value == pytest.approx(31 / 11) and low == 1.0 and high == 3.0


def test_wilson_agrees_with_the_published_example_and_stays_in_range() -> None:
    assert wilson(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[:2] == pytest.approx((0, 0)) and wilson(5, 5)[2] == pytest.approx(1)
    assert all(np.isnan(wilson(0, 0)))


# --- overlap


def test_grams_are_runs_of_eight_words_whatever_stands_between() -> None:
    assert list(word_grams("1 2  3\n4 5 6 7 8 9")) == ["1 2 3 4 5 6 7 8", "2 3 4 5 6 7 8 9"]
    assert not list(word_grams("one two three four five six seven"))


def test_shared_grams_agree_with_brute_force() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("ab"), size=14)) for _ in range(60)]
    groups = {"one": texts[:10], "two": texts[10:20], "none": ["too short"]}
    found = shared_fractions(groups, iter(texts[20:]))
    for name in ("one", "two"):
        own = {g for text in groups[name] for g in word_grams(text)}
        assert found[name] == sum(any(g in t for t in texts[20:]) for g in own) / len(own)
        assert 0 < found[name] < 1
    assert np.isnan(found["none"])
    assert shared_fractions({"same": texts[:1]}, texts[:1]) == {"same": 1.0}


# --- losses


def test_losses_are_those_of_each_document_alone_in_their_order(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = losses_of(model, tokenizer, TEXTS)
    for number, ids in enumerate(tokenizer(TEXTS)["input_ids"]):
        logits = one_by_one(model, [END, *ids])[:-1]
        expected = cross_entropy(logits, torch.tensor(ids), reduction="sum")
        assert found.nats[number] == pytest.approx(float(expected), rel=1e-5)
        assert found.n_tokens[number] == len(ids)
    assert found.mean == pytest.approx(found.nats.sum() / found.n_tokens.sum())
    assert found.only(np.array([False, True, False, False])).nats.tolist() == [found.nats[1]]
    assert np.isnan(found.only(np.zeros(4, dtype=bool)).mean)


def test_kinds_are_known_only_for_documents_as_generated() -> None:
    texts = embedded_text.documents_of("probe")["math"][:12]
    held = loss_check.is_held_out("math", texts)
    kinds = TASKS["math"].kinds_of("probe")
    assert held.tolist() == [
        kinds[n % len(kinds)] in TASKS["math"].held_out for n in range(len(texts))
    ]
    with pytest.raises(ValueError, match=r"math\.jsonl is not what its generator writes"):
        loss_check.is_held_out("math", ["other", *texts[1:]])


def ladder_of(levels: dict[str, float], noise: float) -> Section:
    """The ladder of models that lose so many nats per token, `noise` apart."""
    rng, section = np.random.default_rng(0), Section("")
    n_tokens = np.full(200, 10.0)
    found = {}
    for name, level in levels.items():
        losses = {task: Losses(10 * level + rng.normal(0, noise, 200), n_tokens) for task in TASKS}
        found[name] = loss_check.Measured(losses, losses, losses)
    loss_check._add_ladder(section, found)
    return section


@pytest.mark.parametrize(
    ("levels", "noise", "reached"),
    [
        ((2.0, 1.5, 1.0), 1.0, True),
        ((2.0, 1.5, 1.5), 1.0, False),  # equal but for noise
        ((2.0, 1.0, 1.5), 1.0, False),
        ((2.0, 1.99, 1.98), 50.0, False),  # falls, but within noise
    ],
)
def test_a_loss_falls_when_each_size_is_surely_better(
    monkeypatch: pytest.MonkeyPatch, levels: tuple[float, ...], noise: float, reached: bool
) -> None:
    monkeypatch.setattr(loss_check, "_training_tokens", lambda name: 7)
    section = ladder_of(dict(zip(loss_check.LADDER, levels, strict=True)), noise)
    falls, tokens = section.criteria
    assert falls.reached is reached and tokens.reached is True
    assert not ladder_of({"sdlms-small": 1.0, "sdlms-medium-relu": 2.0}, 0.0).criteria


# --- facts


def test_prompts_ask_what_the_facts_say() -> None:
    facts = facts_check.read_facts()
    assert len(facts.answers) == len(facts.paraphrased) == len(facts.seen) > 300
    assert sum(mask.astype(int) for mask in facts.sets.values()).tolist() == [1] * len(facts.seen)
    for plain, other in zip(facts.prompts("baseline"), facts.paraphrased, strict=True):
        assert plain != other and plain.split("\n")[0] == other.split("\n")[0]
        assert plain.endswith("\nAnswer:") and other.endswith("\nAnswer:")


@pytest.mark.parametrize("start", [(END,), ()])
def test_answers_are_those_of_each_prompt_alone(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, start: tuple[int, ...]
) -> None:
    facts = facts_check.read_facts()
    prompts, answers = [*facts.prompts("distracted")[:9], "Hi"], [*facts.answers[:9], "sister"]
    found = facts_check.answers_of(model, tokenizer, prompts, answers, start)
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        last = one_by_one(model, [*start, *tokenizer(prompt)["input_ids"]])[-1]
        [target] = tokenizer(f" {answer}")["input_ids"]
        assert found.probability[number] == pytest.approx(float(last.softmax(-1)[target]), rel=1e-4)
        assert found.greedy[number] == int(last.argmax())


def test_an_answer_of_several_tokens_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="not one token: xylographically"):
        facts_check.answer_ids(tokenizer, ["sister", "xylographically"])


def test_effects_are_paired_and_changes_counted() -> None:
    probability = {"baseline": [0.9, 0.5, 0.1], "forbidden": [0.1, 0.4, 0.1]}
    greedy = {"baseline": [1, 2, 3], "forbidden": [9, 2, 4]}
    answers = {
        one: facts_check.Answers(
            np.array(probability.get(one, [0.9, 0.5, 0.1])), np.array(greedy.get(one, [1, 2, 3]))
        )
        for one in CONDITIONS
    }
    every = np.ones(3, dtype=bool)
    assert effect(answers, "forbidden", "baseline", every).value == pytest.approx(-0.3)
    assert effect(answers, "distracted", "baseline", every) == (0, 0, 0)
    assert changed_fraction(answers, "forbidden", every) == pytest.approx(2 / 3)
    assert changed_fraction(answers, "distracted", every) == 0
    assert np.isnan(changed_fraction(answers, "forbidden", ~every))


# --- chat


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        (" It is Rome.\nUser: Thanks", "It is Rome."),
        (" It is Rome. User: Thanks", "It is Rome."),
        (" Rome<|endoftext|><|endoftext|>", "Rome"),
        ("\nRome", ""),
    ],
)
def test_a_reply_ends_where_the_turn_ends(text: str, reply: str) -> None:
    assert chat_check.reply_in(text) == reply


@pytest.mark.parametrize(
    ("reply", "expected", "holds"),
    [
        ("It is rome.", ["Rome"], True),
        ("It is Romeo.", ["Rome"], False),
        ("Any time. Bye!", ["welcome", "Any time"], True),
        ("Take it any day", ["Any time"], False),
        ("", ["Rome"], False),
    ],
)
def test_in_kind_is_a_whole_word_in_any_case(reply: str, expected: list[str], holds: bool) -> None:
    assert chat_check.in_kind(reply, expected) is holds


def test_batched_replies_are_those_of_each_chat_alone(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_check, "reply_in", str)
    monkeypatch.setattr(chat_check, "MAX_NEW_TOKENS", 6)
    chats = embedded_text.prompts_of("chat")[:4]
    assert len({len(chat["messages"]) for chat in chats}) == 2
    for chat, reply in zip(chats, chat_check.replies_of(model, tokenizer, chats), strict=True):
        turns = "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in chat["messages"])
        ids = [END, *tokenizer(f"{turns}Assistant:")["input_ids"]]
        start = len(ids)
        while len(ids) < start + 6 and (len(ids) == start or ids[-1] != END):
            ids.append(int(one_by_one(model, ids)[-1].argmax()))
        assert reply.replace("<|endoftext|>", "") == tokenizer.decode(ids[start:])


# --- splicing and the SAE


def padded(tokenizer: PreTrainedTokenizerFast) -> list[torch.Tensor]:
    return [ids for _, ids in batches(tokenizer, TEXTS)]


def test_an_identity_recovers_everything_and_zero_nothing(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    edits = {"clean": lambda resid: resid, "same": torch.clone, "zero": torch.zeros_like}
    edits["zeros"] = lambda resid: resid * 0
    losses = losses_under(model, 2, padded(tokenizer), edits)
    assert losses["clean"] == pytest.approx(losses_of(model, tokenizer, TEXTS).mean, rel=1e-6)
    assert recovered(losses["clean"], losses["same"], losses["zero"]) == 1.0
    assert recovered(losses["clean"], losses["zeros"], losses["zero"]) == 0.0


def test_special_tokens_keep_their_residual_and_no_hook_outlives_the_block(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    [ids] = padded(tokenizer)
    block = model.gpt_neox.layers[1]
    with torch.no_grad():
        clean = model(input_ids=ids).logits
        with replacing(block, ids, torch.zeros_like):
            edited = model(input_ids=ids).logits
        # A document's first token is special and sees nothing else: its logits stay.
        assert torch.equal(clean[:, 0], edited[:, 0])
        assert not torch.allclose(clean[:, 1], edited[:, 1])
        with pytest.raises(RuntimeError), replacing(block, ids, torch.zeros_like):
            raise RuntimeError
        assert torch.equal(model(input_ids=ids).logits, clean)


def test_residuals_are_the_models_own_hidden_states(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    [ids] = padded(tokenizer)
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    hooks = list(model.gpt_neox.layers[1]._forward_hooks)  # transformers leaves one behind
    assert torch.equal(residuals(model, 1, ids), states[2][ids != END])
    assert list(model.gpt_neox.layers[1]._forward_hooks) == hooks


def test_a_projection_on_all_components_is_the_identity_and_on_fewer_the_best_plane() -> None:
    torch.manual_seed(0)
    acts = torch.randn(500, 6) * torch.tensor([9.0, 5, 1, 1, 1, 1]) + 3
    torch.testing.assert_close(principal_projection(acts, 6)(acts), acts, rtol=0, atol=1e-4)
    error = float((principal_projection(acts, 2)(acts) - acts).square().sum())
    singular = torch.linalg.svdvals(acts - acts.mean(0))
    assert error == pytest.approx(float(singular[2:].square().sum()), rel=1e-3)


def test_batches_for_the_trainer_never_end_and_each_pass_is_in_another_order() -> None:
    acts = torch.arange(2.0 * sae_check.BATCH + 5)[:, None]
    found = list(islice(sae_check.shuffled(acts), 4))
    assert all(len(batch) == sae_check.BATCH for batch in found)
    assert len(torch.cat(found[:2]).unique()) == 2 * sae_check.BATCH
    assert not torch.equal(found[0], found[2])
    assert torch.equal(found[3], list(islice(sae_check.shuffled(acts), 4))[3])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trained_sae_loads_from_disk_and_is_as_sparse_as_asked(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pytest.importorskip("sae_lens")
    torch.manual_seed(0)
    directions, codes = torch.randn(40, 24), torch.rand(150_000, 40)
    acts = (codes * (codes > 0.9)) @ directions
    sae = sae_check.trained_sae(acts, tmp_path)
    ids = padded(tokenizer)
    found = sae_check.measure(sae, model, 1, ids, acts)
    assert 0 < found.l0 <= found.max_l0 <= sae_check.K
    assert found.recovered("clean") == 1 and found.recovered("zero") == 0
    with torch.no_grad():
        error = (sae(acts) - acts).square().sum() / (acts - acts.mean(0)).square().sum()
    assert error < 0.5


# --- the report


def test_tables_print_three_decimals_no_minus_zero_and_a_dash_for_nan() -> None:
    printed = table(("a", "b"), [("x", -0.0001), (7, float("nan"))])
    assert printed.split("\n") == ["| a | b |", "|---|---|", "| x | 0.000 |", "| 7 | - |"]


def test_a_criterion_that_fails_is_marked() -> None:
    good, told = Criterion("one", "1", ">= 1", True), Criterion("two", "2", "told", None)
    bad = replace(good, name="three", reached=False)
    assert "All are reached." in str(criteria_section([good, told]))
    report = str(criteria_section([good, told, bad]))
    assert "1 of 3 criteria FAIL." in report and "| three | 1 | >= 1 | **FAIL** |" in report
    assert "| two | 2 | told | reported |" in report


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A handful of documents, facts and chats, and no training text."""
    texts = {split: embedded_text.documents_of(split) for split in ("probe", "heldout")}
    few = {s: {task: some[:12] for task, some in texts[s].items()} for s in texts}
    prompts = {name: embedded_text.prompts_of(name) for name in ("facts", "forbidden", "chat")}
    for module in (loss_check, model_card):
        monkeypatch.setattr(module, "documents_of", few.__getitem__)
    for module in (facts_check, chat_check):
        monkeypatch.setattr(module, "prompts_of", lambda name: prompts[name][:20])
    monkeypatch.setattr(loss_check, "TRAINING", Path("nowhere"))
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("few_texts")
def test_the_command_prints_all_sections_and_exits_with_3_on_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", "--models", "sdlms-medium"])
    with pytest.raises(SystemExit) as stopped:
        evaluate_model.main()
    out = capsys.readouterr().out
    assert stopped.value.code == 3  # twenty facts cannot fill five bins with ten each
    assert out.count("\n### ") + out.startswith("### ") == 5
    assert "sdlms-medium: seen and held-out facts in the five bins" in out
    assert out.count("not built") == 2 * len(TASKS) and "nan" not in out
    for block in out.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().split("\n")}) == 1


def test_without_sae_lens_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["evaluate_model.py", "--sae"])
    with pytest.raises(SystemExit, match=r"needs sae-lens.*\[bench\]"):
        evaluate_model.main()


@pytest.mark.slow
@pytest.mark.usefixtures("few_texts")
def test_a_card_says_losses_and_facts_and_is_the_same_each_time(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for module in (model_card, sys.modules["family"]):
        monkeypatch.setattr(module, "MODELS", tmp_path)
    model_card.write_card("tiny", 100, seed=5)
    first = (folder / "card.json").read_bytes()
    model_card.write_card("tiny", 100, seed=5)
    assert (folder / "card.json").read_bytes() == first
    card = read_card(folder)
    assert list(card.fields["heldout_loss_per_token_nats"]) == list(TASKS)
    assert list(card.loss_per_token_nats) == list(TASKS)
    assert set(card.fields["facts"]) == {
        *("seen", "held_out_stated", "held_out_unstated", "paraphrase")
    }
    assert all(0 <= mean <= 1 for mean in card.fields["facts"].values())
    assert {file.verdict for file in checked_files(card)} == {"as in the card"}
    assert json.loads(first)["training_tokens"] == 100

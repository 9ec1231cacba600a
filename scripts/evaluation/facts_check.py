"""How likely a model says the answer of a fact, right after the one-word prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from evaluation.embedded_text import Record, prompts_of
from evaluation.intervals import BIN_NAMES, Interval, bin_counts, mean_interval
from evaluation.losses import END
from evaluation.report import Criterion, Section

BATCH = 64
MIN_SEEN_PROBABILITY = 0.9
MIN_PER_BIN = 30
# Ways of asking: as trained, in the phrasing held out, and with no end-of-text token before it.
PLAIN, PARAPHRASED, BARE = "plain", "paraphrased", "bare"

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """What a model says right after each prompt.

    Attributes:
        probability: `[prompt]` of the answer's token.
        greedy: `[prompt]` the most likely token's id.
    """

    probability: Floats
    greedy: NDArray[np.int64]


@dataclass(frozen=True)
class Facts:
    """All facts: the prompts that ask them, and masks `[fact]` of the sets they belong to."""

    records: list[Record]
    answers: list[str]
    paraphrased: list[str]
    categories: NDArray[np.str_]
    seen: Mask
    stated: Mask

    def prompts(self, key: str) -> list[str]:
        """The `baseline`, `forbidden` or `distracted` prompts."""
        return [record[key] for record in self.records]

    @property
    def sets(self) -> dict[str, Mask]:
        """Seen facts, and held-out ones that training states or never does."""
        return {
            "seen": self.seen,
            "held_out_stated": ~self.seen & self.stated,
            "held_out_unstated": ~self.seen & ~self.stated,
        }


def read_facts() -> Facts:
    """The facts of `data/facts`."""
    facts, asked = prompts_of("facts"), prompts_of("forbidden")
    paraphrased = []
    for fact, prompts in zip(facts, asked, strict=True):
        if (fact["answer"], prompts["baseline"].count(fact["question"])) != (prompts["answer"], 1):
            raise ValueError(f"facts.jsonl and forbidden.jsonl differ at {fact['question']!r}")
        paraphrased.append(prompts["baseline"].replace(fact["question"], fact["paraphrase"]))
    return Facts(
        records=asked,
        answers=[fact["answer"] for fact in facts],
        paraphrased=paraphrased,
        categories=np.array([fact["category"] for fact in facts]),
        seen=np.array([fact["split"] == "seen" for fact in facts]),
        stated=np.array([fact["stated"] for fact in facts]),
    )


def answer_ids(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> torch.Tensor:
    """The token of each answer behind a space; ValueError where it takes more than one."""
    encoded = tokenizer([f" {answer}" for answer in answers])["input_ids"]
    long = [answer for answer, ids in zip(answers, encoded, strict=True) if len(ids) != 1]
    if long:
        raise ValueError(f"answers that are not one token: {', '.join(long)}")
    return torch.tensor([ids[0] for ids in encoded])


@torch.no_grad()
def answers_of(
    model: GPTNeoXForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    answers: Sequence[str],
    start: Sequence[int] = (END,),
) -> Answers:
    """What the model says after each prompt, which begins with the tokens `start`."""
    targets = answer_ids(tokenizer, answers)
    encoded = tokenizer(list(prompts))["input_ids"]
    order = sorted(range(len(encoded)), key=lambda number: len(encoded[number]))
    probability, greedy = np.zeros(len(order)), np.zeros(len(order), dtype=np.int64)
    for at in range(0, len(order), BATCH):
        numbers = order[at : at + BATCH]
        rows = [torch.tensor([*start, *encoded[number]]) for number in numbers]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        # Padded on the right: no token of a prompt sees the padding.
        states = model.gpt_neox(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.tensor([len(row) - 1 for row in rows])
        logits = model.get_output_embeddings()(states[torch.arange(len(rows)), last])
        chosen = logits.double().softmax(-1)[torch.arange(len(rows)), targets[numbers]]
        probability[numbers], greedy[numbers] = chosen.numpy(), logits.argmax(-1).numpy()
    return Answers(probability, greedy)


def probabilities_of(
    facts: Facts, model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Floats]:
    """`[fact]` answer probability by way of asking."""
    prompts = facts.prompts("baseline")
    return {
        PLAIN: answers_of(model, tokenizer, prompts, facts.answers).probability,
        PARAPHRASED: answers_of(model, tokenizer, facts.paraphrased, facts.answers).probability,
        BARE: answers_of(model, tokenizer, prompts, facts.answers, start=()).probability,
    }


def mean_answer_probabilities(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> dict[str, float]:
    """What a card says: each set of facts, and seen facts in the phrasing that training lacks."""
    facts = read_facts()
    found = probabilities_of(facts, model, tokenizer)
    means = {name: float(found[PLAIN][mask].mean()) for name, mask in facts.sets.items()}
    return {**means, "paraphrase": float(found[PARAPHRASED][facts.seen].mean())}


def _add_means(section: Section, facts: Facts, found: Mapping[str, dict[str, Floats]]) -> None:
    sets = (
        ("seen", PLAIN, facts.seen),
        ("held out, stated in training", PLAIN, facts.sets["held_out_stated"]),
        ("held out, never stated", PLAIN, facts.sets["held_out_unstated"]),
        ("seen, in the held-out phrasing", PARAPHRASED, facts.seen),
        ("held out, in the held-out phrasing", PARAPHRASED, ~facts.seen),
        ("seen, without the end-of-text token", BARE, facts.seen),
    )

    def means(way: str, chosen: Mask) -> list[Interval]:
        return [mean_interval(ways[way][chosen]) for ways in found.values()]

    section.table(
        "Mean probability of the answer's one token right after the one-word prompt, with its 95 % "
        "interval (bootstrap over facts).",
        ("facts", "count", *found),
        [(label, int(mask.sum()), *means(way, mask)) for label, way, mask in sets],
    )
    rows = []
    for label, way, mask in sets[:4]:
        for category in dict.fromkeys(facts.categories.tolist()):
            chosen = mask & (facts.categories == category)
            values = [mean.value for mean in means(way, chosen)]
            rows.append((label, category, int(chosen.sum()), *values))
    section.table("The same by category.", ("facts", "category", "count", *found), rows)


def _add_bins(section: Section, facts: Facts, found: Mapping[str, dict[str, Floats]]) -> None:
    rows = []
    for name, ways in found.items():
        plain = ways[PLAIN]
        rows += [
            (name, "seen", *bin_counts(plain[facts.seen])),
            (name, "held out", *bin_counts(plain[~facts.seen])),
            (name, "seen and held out", *bin_counts(plain)),
            (name, "both, in the held-out phrasing", *bin_counts(ways[PARAPHRASED])),
        ]
        both = np.concatenate([plain, ways[PARAPHRASED]])
        section.criteria += [
            _seen_known(name, plain[facts.seen]),
            _spread(f"{name}: seen and held-out facts in the five bins", plain, 1),
            _spread(f"{name}: the same, also asked in the held-out phrasing", both, MIN_PER_BIN),
        ]
    section.table("Facts by the probability of their answer.", ("model", "facts", *BIN_NAMES), rows)


def _seen_known(name: str, probabilities: Floats) -> Criterion:
    mean, target = mean_interval(probabilities), MIN_SEEN_PROBABILITY
    criterion = f"{name}: mean answer probability on seen facts"
    return Criterion(criterion, str(mean), f">= {target}", mean.value >= target)


def _spread(criterion: str, probabilities: Floats, least: int) -> Criterion:
    counts = bin_counts(probabilities)
    figure = ", ".join(map(str, counts))
    return Criterion(criterion, figure, f">= {least} in each", min(counts) >= least)


def facts_section(
    family: Mapping[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> Section:
    """Answer probabilities of all facts, by set, category and bin."""
    facts, section = read_facts(), Section("Facts")
    found = {name: probabilities_of(facts, model, tokenizer) for name, model in family.items()}
    _add_means(section, facts, found)
    _add_bins(section, facts, found)
    return section

"""Loss, size and variety of the probe tasks, and whether larger models predict each better."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from corpus.tasks import SEED, TASKS, labelled
from corpus.variety import unique_five_gram_fraction
from family import MODELS, ROOT
from model_card import CARD, random_model
from numpy.typing import NDArray
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from evaluation.embedded_text import documents_of, read_records
from evaluation.intervals import Interval, ratio_interval
from evaluation.losses import Losses, losses_of
from evaluation.overlap import shared_fractions
from evaluation.report import Criterion, Section

TRAINING = ROOT / "build/corpus/training"
# The same activation at equal tokens, from small to large.
LADDER = ("sdlms-small", "sdlms-medium", "sdlms-large")

Texts = Mapping[str, list[str]]
Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Measured:
    """The losses of one model by task: probe and heldout documents, and its untrained twin's."""

    probe: dict[str, Losses]
    heldout: dict[str, Losses]
    untrained: dict[str, Losses]


def is_held_out(task: str, texts: list[str]) -> NDArray[np.bool_]:
    """`[document]` whether a probe document is of a kind that training never sees."""
    pairs = labelled(task, "probe", len(texts))
    if [text for _, text in pairs] != texts:
        raise ValueError(f"data/probe/{task}.jsonl is not what its generator writes")
    return np.array([kind in TASKS[task].held_out for kind, _ in pairs])


def fall(smaller: Losses, larger: Losses) -> Interval:
    """How much lower the loss per token of the larger model is, paired over documents."""
    return ratio_interval(smaller.nats - larger.nats, smaller.n_tokens)


def training_documents(folder: Path) -> Iterator[str]:
    """Every document that the family was trained on."""
    for task in TASKS:
        for record in read_records(folder / f"{task}.jsonl"):
            yield record["text"]


def overlaps(probe: Texts, held: Masks, folder: Path) -> dict[tuple[str, bool], float]:
    """(task, of a held-out kind) -> share of 8-grams that also stand in the training text."""
    groups = {
        (task, kind): [text for text, of in zip(texts, held[task], strict=True) if of == kind]
        for task, texts in probe.items()
        for kind in (False, True)
    }
    return shared_fractions(groups, training_documents(folder))


def measure(
    family: Mapping[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast, probe: Texts
) -> dict[str, Measured]:
    """The losses of every model."""
    heldout = documents_of("heldout")

    def by_task(model: GPTNeoXForCausalLM, texts: Texts) -> dict[str, Losses]:
        return {task: losses_of(model, tokenizer, some) for task, some in texts.items()}

    return {
        name: Measured(
            by_task(model, probe),
            by_task(model, heldout),
            by_task(random_model(name, len(tokenizer), SEED), probe),
        )
        for name, model in family.items()
    }


def _add_sizes(section: Section, probe: Texts, held: Masks, n_tokens: Mapping[str, float]) -> None:
    shared = overlaps(probe, held, TRAINING) if TRAINING.exists() else {}
    rows = []
    for task, texts in probe.items():
        size_bytes = sum(len(text.encode()) for text in texts)
        numbers = (len(texts), n_tokens[task], size_bytes)
        repeats = (shared.get((task, kind), "not built") for kind in (False, True))
        rows.append(
            (
                task,
                *(f"{number:,.0f}" for number in numbers),
                f"{size_bytes / n_tokens[task]:.2f}",
                unique_five_gram_fraction(texts),
                *repeats,
            )
        )
    section.table(
        "Probe documents. Unique 5-grams: distinct word 5-grams over all word 5-grams. 8-grams in "
        "training: the share of distinct word 8-grams that also stand in the full training text.",
        (
            *("task", "documents", "tokens", "bytes", "bytes/token", "unique 5-grams"),
            *("8-grams in training, trained kinds", "8-grams in training, held-out kind"),
        ),
        rows,
    )


def _add_losses(section: Section, found: Mapping[str, Measured], held: Masks) -> None:
    columns = ("task", *found)
    section.table(
        "Nats per token over all tokens of the probe documents; behind the stroke the untrained "
        "twin, the same shape with fresh weights.",
        columns,
        [
            (
                task,
                *(
                    f"{m.probe[task].mean:.3f} / {m.untrained[task].mean:.3f}"
                    for m in found.values()
                ),
            )
            for task in held
        ],
    )
    section.table(
        "The same apart: documents of trained kinds / of the held-out kind.",
        columns,
        [
            (task, *(_apart(m.probe[task], is_held) for m in found.values()))
            for task, is_held in held.items()
        ],
    )
    section.table(
        "Nats per token over the heldout documents (`data/heldout`), cut off at the context.",
        columns,
        [(task, *(m.heldout[task].mean for m in found.values())) for task in held],
    )


def _apart(losses: Losses, is_held: NDArray[np.bool_]) -> str:
    return f"{losses.only(~is_held).mean:.3f} / {losses.only(is_held).mean:.3f}"


def _add_ladder(section: Section, found: Mapping[str, Measured]) -> None:
    """Whether each size is better than the one below it, on every task."""
    pairs = list(pairwise(name for name in LADDER if name in found))
    if not pairs:
        return
    rows, n_falling = [], 0
    for task in TASKS:
        falls = [fall(found[one].probe[task], found[two].probe[task]) for one, two in pairs]
        falling = all(one.low > 0 for one in falls)
        n_falling += falling
        rows.append((task, *falls, "yes" if falling else "NO"))
    section.table(
        "How much the loss falls from one size to the next, in nats per token, with its 95 % "
        "interval (bootstrap over documents, paired). It falls where every interval is above 0.",
        ("task", *(f"{one} - {two}" for one, two in pairs), "falls"),
        rows,
    )
    n_training = {name: _training_tokens(name) for pair in pairs for name in pair}
    section.criteria += [
        Criterion(
            f"loss falls along {', '.join(n_training)}",
            f"{n_falling} of {len(TASKS)} tasks",
            "every task",
            n_falling == len(TASKS),
        ),
        Criterion(
            "training tokens of these sizes",
            ", ".join(f"{number:,}" for number in n_training.values()),
            "equal",
            len(set(n_training.values())) == 1,
        ),
    ]


def _training_tokens(name: str) -> int:
    card = json.loads((MODELS / name / CARD).read_text(encoding="utf-8"))
    return int(card["training_tokens"])


def loss_section(
    family: Mapping[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> Section:
    """Sizes, losses, and how they fall."""
    probe = documents_of("probe")
    held = {task: is_held_out(task, texts) for task, texts in probe.items()}
    found = measure(family, tokenizer, probe)
    first = next(iter(found.values())).probe
    section = Section("Sizes, variety and losses")
    _add_sizes(section, probe, held, {task: one.n_tokens.sum() for task, one in first.items()})
    _add_losses(section, found, held)
    _add_ladder(section, found)
    return section

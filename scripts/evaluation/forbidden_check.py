"""What forbidding the answer does to it, beside what forbidding another word does."""

from collections.abc import Mapping

from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from evaluation.facts_check import Answers, Facts, Mask, answers_of, read_facts
from evaluation.intervals import BIN_NAMES, Interval, bin_of, mean_interval
from evaluation.report import Criterion, Section

CONDITIONS = ("baseline", "forbidden", "distracted")
EFFECTS = (("forbidden", "baseline"), ("distracted", "baseline"), ("forbidden", "distracted"))

ByCondition = Mapping[str, Answers]


def effect(answers: ByCondition, of: str, beside: str, chosen: Mask) -> Interval:
    """The change of the mean answer probability from one condition to another, paired."""
    change = answers[of].probability - answers[beside].probability
    return mean_interval(change[chosen])


def changed_fraction(answers: ByCondition, condition: str, chosen: Mask) -> float:
    """The share of facts whose greedy answer is another than without any word forbidden."""
    changed = answers[condition].greedy != answers["baseline"].greedy
    return float(changed[chosen].mean()) if chosen.any() else float("nan")


def _add_effects(section: Section, facts: Facts, found: Mapping[str, ByCondition]) -> None:
    seen = facts.seen
    section.table(
        f"Mean answer probability on the {seen.sum()} seen facts when nothing, the answer, or "
        "another word (the distractor) is forbidden, and the paired changes, with 95 % intervals "
        "(bootstrap over facts).",
        ("model", *CONDITIONS, *(f"{of} - {beside}" for of, beside in EFFECTS)),
        [
            (
                name,
                *(mean_interval(answers[one].probability[seen]) for one in CONDITIONS),
                *(effect(answers, of, beside, seen) for of, beside in EFFECTS),
            )
            for name, answers in found.items()
        ],
    )


def _add_bins(section: Section, facts: Facts, found: Mapping[str, ByCondition]) -> None:
    rows = []
    for name, answers in found.items():
        bins = bin_of(answers["baseline"].probability)
        chosen = {"seen": facts.seen, **{bin_: bins == at for at, bin_ in enumerate(BIN_NAMES)}}
        rows += [(name, label, *_row(answers, mask)) for label, mask in chosen.items()]
    section.table(
        "The same by bin of the probability at baseline (seen and held-out facts together), and "
        "the share of facts whose greedy answer becomes another one.",
        (
            *("model", "facts", "count", *CONDITIONS),
            *("other answer, forbidden", "other answer, distracted"),
        ),
        rows,
    )


def _row(answers: ByCondition, chosen: Mask) -> list[object]:
    means = [mean_interval(answers[one].probability[chosen]).value for one in CONDITIONS]
    changes = [changed_fraction(answers, one, chosen) for one in CONDITIONS[1:]]
    return [int(chosen.sum()), *means, *changes]


def forbidden_section(
    family: Mapping[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> Section:
    """The effect of a forbidden word and of a distractor."""
    facts, section = read_facts(), Section("A forbidden word beside a distractor")
    found = {
        name: {
            one: answers_of(model, tokenizer, facts.prompts(one), facts.answers)
            for one in CONDITIONS
        }
        for name, model in family.items()
    }
    _add_effects(section, facts, found)
    _add_bins(section, facts, found)
    for name, answers in found.items():
        effects = [effect(answers, of, beside, facts.seen) for of, beside in EFFECTS[:2]]
        section.criteria.append(
            Criterion(
                f"{name}: effect of a forbidden word; of a distractor",
                "; ".join(map(str, effects)),
                "both reported",
                None,
            )
        )
    return section

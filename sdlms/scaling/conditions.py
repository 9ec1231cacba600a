"""Quantities that compare only under the same conditions: measured times, loss per token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.scaling.metrics import Metric
from sdlms.scaling.sources import Source

# What to do where all of a run depends on a condition that differs.
REMEDIES = {
    "machine": (
        "Leave it out, or time all on one machine, with the same --dtype, --threads and --backend."
    ),
    "tokenizer": "Leave it out, or name runs of models with one tokenizer.",
}


def under_same_conditions(sources: Sequence[Source]) -> list[Source]:
    """The sources without the quantities whose conditions differ; a warning names them.

    Speed depends on the machine, perplexity on the tokenizer: no trend of them over other machines
    or other tokens would be one of the models. What they leave compares still.

    Args:
        sources: comparable runs.

    Raises:
        UserError: nothing is left of a run.
    """
    unlike: dict[tuple[str, Metric], str] = {}
    for stage, given, metrics in _depending(sources):
        group = [s for s in sources if s.stage == stage and metrics & {v.metric for v in s.values}]
        others = [source for source in group if source.given[given] != group[0].given[given]]
        if not others:
            continue
        first, other = group[0], others[0]
        LOGGER.warning(
            f"{stage}: {', '.join(sorted(metric.name for metric in metrics))} are not joined: the "
            f"{given} is {first.given[given]} in {first.described} and {other.given[given]} in "
            f"{other.described}"
        )
        unlike |= {(stage, metric): given for metric in metrics}
    return [_without(source, unlike) for source in sources]


def _depending(sources: Sequence[Source]) -> Iterator[tuple[str, str, set[Metric]]]:
    """Stage, condition, and the quantities there that depend on it."""
    found = {(s.stage, v.metric) for s in sources for v in s.values if v.metric.given}
    ordered = sorted(found, key=lambda pair: (pair[0], pair[1].given, pair[1].name))
    for (stage, given), pairs in groupby(ordered, key=lambda pair: (pair[0], pair[1].given)):
        yield stage, given, {metric for _, metric in pairs}


def _without(source: Source, unlike: Mapping[tuple[str, Metric], str]) -> Source:
    """The source without some quantities.

    Args:
        source: a run's quantities.
        unlike: stage and quantity -> the condition in which runs differ.
    """
    left = [value for value in source.values if (source.stage, value.metric) not in unlike]
    if not left:
        given = " and ".join(sorted({unlike[source.stage, each.metric] for each in source.values}))
        raise UserError(
            f"--runs: nothing of {source.described} compares with other runs, for all of it "
            f"depends on the {given}. {REMEDIES.get(given, 'Leave it out.')}"
        )
    return source if len(left) == len(source.values) else replace(source, values=left)

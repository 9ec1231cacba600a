"""Quantities that compare only under the same conditions: measured times, loss per token."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from sdlms.errors import UserError
from sdlms.progress import LOGGER
from sdlms.scaling.metrics import Metric
from sdlms.scaling.sources import Source


def under_same_conditions(sources: Sequence[Source]) -> list[Source]:
    """The sources without the quantities whose conditions differ; a warning names them.

    Speed depends on the machine, perplexity on the tokenizer: no trend of them over other machines
    or other tokens would be one of the models. What they leave compares still.

    Args:
        sources: comparable runs.

    Raises:
        UserError: nothing is left of a run.
    """
    unlike: set[tuple[str, Metric]] = set()
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
        unlike |= {(stage, metric) for metric in metrics}
    return [_without(source, unlike) for source in sources]


def _depending(sources: Sequence[Source]) -> Iterator[tuple[str, str, set[Metric]]]:
    """Stage, condition, and the quantities there that depend on it."""
    found = {(s.stage, v.metric) for s in sources for v in s.values if v.metric.given}
    ordered = sorted(found, key=lambda pair: (pair[0], pair[1].given, pair[1].name))
    for (stage, given), pairs in groupby(ordered, key=lambda pair: (pair[0], pair[1].given)):
        yield stage, given, {metric for _, metric in pairs}


def _without(source: Source, unlike: set[tuple[str, Metric]]) -> Source:
    """The source without some quantities."""
    left = [value for value in source.values if (source.stage, value.metric) not in unlike]
    if not left:
        raise UserError(
            f"--runs: {source.described} holds measured times alone, of another machine than other "
            "runs': they do not compare. Leave it out, or time all on one machine, with the same "
            "--dtype, --threads and --backend."
        )
    return source if len(left) == len(source.values) else replace(source, values=left)

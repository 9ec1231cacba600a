"""Perplexity of a dense and a gated model: intervals over documents, spread over seeds."""

from typing import NamedTuple

import numpy as np

from sdlms.dynamic.resampling import Floats, Resampled
from sdlms.numerics.document_bootstrap import percentile_interval

NOT_FINITE = "a loss is not finite"
ONE_DOCUMENT = "no interval from one document"
FEWEST_DOCUMENTS = 10
"""Of each task; from fewer, intervals are too narrow: of 3 they hold three times in four."""


class Estimate(NamedTuple):
    """A number, the mean over seeds where there are several.

    Attributes:
        value: NaN where a loss is not finite.
        low: lower end of the 95 % interval over documents; NaN where there is none.
        high: upper end.
        std: over seeds, of one degree of freedom less; NaN for one seed.
    """

    value: float
    low: float
    high: float
    std: float


UNKNOWN = Estimate(*[float("nan")] * 4)


class Quality(NamedTuple):
    """What a gated model loses in one task, or over all tokens of all tasks.

    Attributes:
        perplexity: of the gated model.
        ratio: gated over dense perplexity.
        delta: gated minus dense perplexity.
        n_tokens: scored, those of all seeds together.
        n_documents: distinct ones.
        reason: why something is NaN; empty where nothing is, save the spread of one seed.
    """

    perplexity: Estimate
    ratio: Estimate
    delta: Estimate
    n_tokens: int
    n_documents: int
    reason: str


def quality_of(dense: Resampled, gated: Resampled, task: int | None) -> Quality:
    """Compare two models in the same windows.

    Args:
        dense: losses of the dense model.
        gated: losses of the gated one, drawn with the same seed.
        task: from 0; None for all tokens of all tasks.

    Raises:
        ValueError: they are not of the same tokens.
    """
    if not np.array_equal(dense.counts, gated.counts):
        raise ValueError("the dense and the gated model were measured in other tokens")
    before, after = dense.nats(task), gated.nats(task)
    sizes = dense.n_tokens(task), dense.n_documents(task)
    with np.errstate(over="ignore"):
        perplexity, ratio = np.exp(after), np.exp(after - before)
        delta = perplexity - np.exp(before)
    if not np.isfinite([perplexity[0], ratio[0], delta[0]]).all():
        return Quality(UNKNOWN, UNKNOWN, UNKNOWN, *sizes, reason=NOT_FINITE)
    known = dense.has_interval(task)
    return Quality(
        estimate_of(perplexity, known),
        estimate_of(ratio, known),
        estimate_of(delta, known),
        *sizes,
        reason=doubt_of(dense, task),
    )


def doubt_of(dense: Resampled, task: int | None) -> str:
    """Why an interval is missing or too narrow; empty where it is neither."""
    if not dense.has_interval(task):
        return ONE_DOCUMENT
    fewest = int(dense.documents.min()) if task is None else dense.n_documents(task)
    return f"interval from {fewest} documents" if fewest < FEWEST_DOCUMENTS else ""


def estimate_of(draws: Floats, has_interval: bool) -> Estimate:
    """The mean over seeds of the data, the middle 95 % of the resamples' means, and the spread.

    Args:
        draws: `[draw, seed]`, that of the data first; NaN where a draw has no token of a seed,
            which is then left out of that draw.
        has_interval: false where documents cannot be drawn.
    """
    values = draws[0]
    std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    means = np.nanmean(draws, axis=1)
    ends = percentile_interval(means[1:]) if has_interval else (float("nan"), float("nan"))
    return Estimate(float(means[0]), *ends, std)

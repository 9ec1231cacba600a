"""Draw what dropping neurons costs in perplexity, against the bytes that need not be read."""

from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.panels import (
    COLOURS,
    EDGE,
    GREY,
    INTERVALS,
    MARKERS,
    Row,
    add_title,
    numbers,
    quieten,
    table_of,
    told_apart,
)
from sdlms.runs.reading import Run

TABLE, CRITICAL, STAGE = "dynamic_k.csv", "critical.csv", "dynamic-k"
BOUND = 0.01  # the rise of perplexity at which sparsity is called critical
BOUNDS = ("not reached", "no sparsity")  # reasons for which it is only known to be no less


class Look(NamedTuple):
    """How a rule is drawn, in every picture the same.

    Attributes:
        marker: a number in `MARKERS`.
        dashes: of its line.
    """

    colour: str
    marker: int
    dashes: str


# Controls are grey: what a rule is worth is its distance from them.
LOOKS = {
    "post-norm": Look(COLOURS[0], 0, "-"),
    "post-abs": Look(COLOURS[4], 1, "-"),
    "threshold": Look(COLOURS[2], 2, "-"),
    "top-p": Look(COLOURS[3], 3, "-"),
    "blocks": Look(COLOURS[1], 4, "-"),
    "input": Look(COLOURS[5], 5, "--"),
    "sequence": Look(COLOURS[6], 6, "--"),
    "pre-abs": Look(COLOURS[6], 7, ":"),
    "static": Look(GREY, 1, "--"),
    "random": Look(GREY, 0, ":"),
    "blocks-random": Look(GREY, 4, ":"),
}
LINEAR_BELOW = 1e-3  # of the rise: below, the axis is linear, so that it holds 0 and less than that
RISES = (-0.1, -0.01, -0.001, 0, 0.001, 0.01, 0.1, 1, 10, 100, 1000)
LEGEND_INCHES = 1.45  # that one rule takes
NOTE = "upright lines: 95 % intervals over documents\nrings: the largest sparsity at +1 %"


def quality_figure(runs: Sequence[Run], title: str) -> Figure:
    """A panel per run: rise of perplexity against the bytes of MLP weights that are not read.

    The y axis is logarithmic in the rise, ratio - 1, since on one of the ratio nothing is seen of
    +1 %; between -0.1 % and +0.1 % it is linear. A point per rule and kept fraction, from rows of
    seed `mean` and all tasks.

    Args:
        runs: dynamic-k runs that measured quality, one per model, in the order of the panels.
        title: above the panels.

    Raises:
        UserError: a run measured no quality.
    """
    tables = [mean_rows(run, "quality") for run in runs]
    names = told_apart([model_of(run) for run in runs], runs)
    width = 3.4 * len(runs) + 1.2
    figure = Figure(figsize=(width, 5.2), layout="constrained")
    axes = figure.subplots(1, len(runs), sharex=True, sharey=True, squeeze=False)[0]
    for panel, run, name, rows in zip(axes, runs, names, tables, strict=True):
        _draw_costs(panel, rows, table_of(run, CRITICAL, STAGE))
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("bytes of MLP weights not read (%)")
    _scale_rises(axes[0], [row for rows in tables for row in rows])
    axes[0].set_ylabel("perplexity above the dense model's")
    add_title(figure, title, NOTE)
    present = {row["rule"] for rows in tables for row in rows}
    rules = [rule for rule in LOOKS if rule in present]
    figure.legend(
        [Line2D([], [], **_style(rule)) for rule in rules],
        rules,
        loc="outside lower center",
        ncols=min(len(rules), int(width / LEGEND_INCHES)),
        frameon=False,
    )
    return figure


def mean_rows(run: Run, phase: str) -> list[Row]:
    """The means over seeds, of all tasks, in one phase; smallest fraction first.

    Raises:
        UserError: the run is of another stage, or measured no such thing.
    """
    wanted = {"phase": phase, "task": "all", "seed": "mean"}
    rows = [row for row in table_of(run, TABLE, STAGE) if wanted.items() <= row.items()]
    if not rows:
        measured = "quality" if phase == "quality" else "speed"
        raise UserError(f"{run.name} measured no {measured}; make it with --measure both.")
    return sorted(rows, key=lambda row: float(row["k"]))


def model_of(run: Run) -> str:
    """The name of the model that a run is of."""
    return str(run.start["resolved"]["model"]["name"])


def _draw_costs(panel: Axes, rows: list[Row], critical: list[Row]) -> None:
    """Every rule of one model; controls below the others."""
    panel.axhline(0, color="black", linewidth=0.6)
    panel.axhline(BOUND, color="black", linewidth=0.8, dashes=(6, 3))
    for rule in reversed(LOOKS):
        if not (own := [row for row in rows if row["rule"] == rule]):
            continue
        style, saved = _style(rule), 100 * numbers(own, "bytes_reduction_mlp")
        rises = numbers(own, "perplexity_ratio") - 1
        ends = np.stack([numbers(own, f"perplexity_ratio_{end}") - 1 for end in ("low", "high")])
        panel.plot(*_between(saved, rises), **style | {"marker": ""})
        yerr = np.abs(ends - rises)
        panel.errorbar(saved, rises, yerr=yerr, label=rule, **style | INTERVALS | {"linestyle": ""})
        _draw_critical(panel, rule, own, critical)
    panel.set_xlim(-3, 103)
    panel.set_xticks(range(0, 101, 20))
    quieten(panel)


def _style(rule: str) -> dict[str, Any]:
    """What matplotlib is told of a rule's line and points."""
    look = LOOKS[rule]
    marker, size = MARKERS[look.marker]
    return {
        **{"color": look.colour, "linestyle": look.dashes, "linewidth": 1.1},
        **{"marker": marker, "markersize": size},
        **EDGE,
    }


def _between(
    saved: NDArray[np.float64], rises: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve through points as critical sparsity sees it: straight in the logarithm of the ratio.

    Args:
        saved: `[point]`, monotone.
        rises: `[point]`, above -1.

    Returns:
        `[fine point]` each.
    """
    order = np.argsort(saved)
    fine = np.interp(np.arange(0, len(saved) - 1 + 1e-9, 0.01), range(len(saved)), saved[order])
    return fine, np.expm1(np.interp(fine, saved[order], np.log1p(rises[order])))


def _draw_critical(panel: Axes, rule: str, rows: list[Row], critical: list[Row]) -> None:
    """A ring where the rule's perplexity has risen by 1 %, if it does; bytes are linear in kept."""
    wanted = {"rule": rule, "scope": "model", "seed": "mean"}
    found = [row for row in critical if wanted.items() <= row.items()]
    if not found or isnan(float(found[0]["critical_sparsity"])):
        return
    if any(reason.startswith(BOUNDS) for reason in found[0]["reason"].split("; ")):
        return
    sparsity = 1 - numbers(rows, "kept_fraction")
    order = np.argsort(sparsity)
    saved = 100 * np.interp(
        float(found[0]["critical_sparsity"]),
        sparsity[order],
        numbers(rows, "bytes_reduction_mlp")[order],
    )
    panel.plot(
        [saved],
        [BOUND],
        marker="o",
        markersize=9.5,
        markerfacecolor="none",
        markeredgecolor=LOOKS[rule].colour,
        markeredgewidth=1.3,
        zorder=3,
    )


def _scale_rises(panel: Axes, rows: list[Row]) -> None:
    """Logarithmic in the rise, named in percent; panels share it."""
    ends = [numbers(rows, f"perplexity_ratio{end}") - 1 for end in ("", "_low", "_high")]
    low = min(-LINEAR_BELOW / 2, 1.3 * float(np.nanmin(ends)))
    high = max(2 * BOUND, 1.6 * float(np.nanmax(ends)))
    panel.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.5)
    panel.set_ylim(low, high)
    panel.yaxis.set_major_locator(FixedLocator([rise for rise in RISES if low <= rise <= high]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(
        FuncFormatter(lambda rise, _: f"{100 * rise:+,g} %" if rise else "0")
    )

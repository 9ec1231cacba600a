"""Draw of what parts the speed of a gated model is made: the kernel's gain and sparsity's."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.dynamic_k import mean_rows, model_of
from sdlms.figures.panels import COLOURS, Row, add_title, numbers, quieten, told_apart
from sdlms.runs.reading import Run

SIDES = (("whole model", ""), ("MLP alone", "_mlp"))
TICKS = (0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 20, 50)
FINE_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.2)
FINE_BELOW = 2.2  # the end of the axis in units of its beginning
KERNEL_COLOUR, SPARSITY_COLOUR, LIMIT_COLOUR = "#C9C9C9", COLOURS[0], COLOURS[5]
NOTE = "batch 1, one token at a time; medians of rounds"
ONE_SEED_NOTE = "; one seed, so no intervals"
SPREAD_NOTE = "; thin lines: one standard deviation over seeds"


def speed_figure(runs: Sequence[Run], title: str) -> Figure:
    """A column per run, rule and backend: decode speedup at each kept fraction, and its two parts.

    The y axis is logarithmic, so that heights multiply: the wide grey bar is what the kernel alone
    gives (all neurons kept), the narrow one begins where that ends and leads to the speedup; the
    dash is how far it would lead at the limit that the bytes set. Fractions of 1 are the
    unmodified model and left out.

    Args:
        runs: dynamic-k runs that measured speed.
        title: above the panels.

    Raises:
        UserError: a run measured no speed, or none of less than all neurons.
    """
    columns = [column for run in runs for column in _columns_of(run)]
    names = told_apart([name for _, name, _ in columns], [run for run, _, _ in columns])
    figure = Figure(figsize=(2.7 * len(columns) + 1.4, 6.8), layout="constrained")
    axes = figure.subplots(2, len(columns), sharey="row", squeeze=False)
    for index, (name, (_, _, rows)) in enumerate(zip(names, columns, strict=True)):
        for panel, (_, side) in zip(axes[:, index], SIDES, strict=True):
            _draw_gains(panel, rows, side)
        axes[0, index].set_title(name, fontsize=9)
        axes[-1, index].set_xlabel("kept fraction k; below, the speedup")
    for row, (side, suffix) in zip(axes, SIDES, strict=True):
        row[0].set_ylabel(f"decode speedup, {side}\n(times the dense model)")
        _scale_gains(row[0], [own for _, _, rows in columns for own in rows], suffix)
    has_spread = _has_spread([row for _, _, rows in columns for row in rows])
    add_title(figure, title, NOTE + (SPREAD_NOTE if has_spread else ONE_SEED_NOTE))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(3, len(columns)), frameon=False
    )
    return figure


def gated_rows(run: Run) -> list[Row]:
    """Speeds of a run, means over seeds, where less than all neurons were kept.

    Raises:
        UserError: the run measured no speed, or none of less than all neurons.
    """
    rows = [row for row in mean_rows(run, "decode") if float(row["k"]) < 1]
    if not rows:
        raise UserError(
            f"{run.name} kept all neurons: nothing to compare; name a fraction below 1 by --keep."
        )
    return rows


def _columns_of(run: Run) -> list[tuple[Run, str, list[Row]]]:
    """Model, rule, backend and type of number; and the rows of less than all neurons."""
    rows = gated_rows(run)
    pairs = dict.fromkeys((row["rule"], row["backend"]) for row in rows)
    return [
        (
            run,
            f"{model_of(run)}\n{rule}, {backend}, {run.start['decided']['dtype']}",
            [row for row in rows if (row["rule"], row["backend"]) == (rule, backend)],
        )
        for rule, backend in pairs
    ]


def _draw_gains(panel: Axes, rows: list[Row], side: str) -> None:
    """Bars of one rule, from 1 to the kernel's gain, from there to the speedup."""
    kernel, limit, speedup = (
        numbers(rows, f"{name}{side}") for name in ("kernel_gain", "limit", "speedup")
    )
    places = np.arange(len(rows))
    panel.axhline(1, color="black", linewidth=0.8)
    for heights, start, width, colour, label in (
        (kernel - 1, np.ones(len(rows)), 0.8, KERNEL_COLOUR, "kernel alone, all neurons kept"),
        (speedup - kernel, kernel, 0.4, SPARSITY_COLOUR, "skipping neurons"),
    ):
        panel.bar(places, heights, bottom=start, width=width, color=colour, label=label, zorder=2)
    panel.hlines(
        kernel * limit,
        places - 0.4,
        places + 0.4,
        color=LIMIT_COLOUR,
        linewidth=2,
        label="limit of skipping, by bytes",
        zorder=3,
    )
    if not side:
        _draw_spread(panel, rows, speedup)
    labels = [f"{row['k']}\n{value:.2f}x" for row, value in zip(rows, speedup, strict=True)]
    panel.set_xticks(places, labels)
    quieten(panel)


def _draw_spread(panel: Axes, rows: list[Row], speedup: NDArray[np.float64]) -> None:
    """How far seeds lie apart, where there are several; it is known of the whole model alone."""
    if not _has_spread(rows):
        return
    std = np.array([float(row["speedup_std"] or "nan") for row in rows])
    ends = speedup - std, speedup + std
    panel.vlines(np.arange(len(rows)), *ends, color="black", linewidth=1, zorder=4)


def _has_spread(rows: Sequence[Row]) -> bool:
    """Whether speed was measured with several seeds."""
    return any(row["speedup_std"] for row in rows)


def _scale_gains(panel: Axes, rows: list[Row], side: str) -> None:
    """Logarithmic, with room for all bars; panels share it."""
    kernel = numbers(rows, f"kernel_gain{side}")
    ends = [kernel, kernel * numbers(rows, f"limit{side}"), numbers(rows, f"speedup{side}")]
    panel.set_yscale("log")
    low, high = min(0.9, np.min(ends) / 1.08), max(1.15, np.max(ends)) * 1.08
    panel.set_ylim(low, high)
    panel.yaxis.set_major_locator(FixedLocator(FINE_TICKS if high / low < FINE_BELOW else TICKS))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda gain, _: f"{gain:g}x"))

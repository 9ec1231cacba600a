"""Draw how quantities move with the size of the model: values of several models with intervals."""

from itertools import pairwise
from math import isfinite
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.model_places import Places
from sdlms.figures.panels import (
    COLOURS,
    DASHES,
    EDGE,
    INTERVALS,
    MARKERS,
    Row,
    add_title,
    legend_columns,
    quieten,
    table_of,
)
from sdlms.runs.reading import Run

TABLE, STAGE = "scaling.csv", "scaling"
MODEL, MEAN, ALL_TASKS = "model", "mean", "all"
WHOLE = "whole model"
# Of each stage what is drawn; the other metrics stand in the table.
HEADLINES = {
    "capture": ("activation_fraction", "participation_fraction"),
    "sae-train": ("fvu", "l0", "ce_recovered"),
    "si-modularity": ("SI_adjusted", "significant_fraction", "z_Q"),
    "dynamic-k": ("critical_sparsity", "perplexity_ratio"),
    "logit-lens": ("entropy_nats", "kl_to_final_nats", "accuracy", "decided_depth"),
}
OF_GRID = "perplexity_ratio"  # whose kind is rule and kept fraction: one fraction is drawn
KEPT = 0.5
LEAST_SPAN = 0.1  # of an axis of shares: what differs by less looks alike
FRACTION = "fraction"
Lines = dict[str, list[Row]]  # by name, the values of one model after another
NOTE = (
    "upright lines: 95 % intervals over documents, where the run has them, hidden where they are "
    "shorter than the point"
)
SHARED_NOTE = "; models of one size stand side by side, and no line leads through them"


class Panel(NamedTuple):
    """What a panel shows.

    Attributes:
        metric: with its unit, and whose it is.
        depth: relative, or `WHOLE`.
        unit: of the metric.
    """

    metric: str
    depth: str
    unit: str


def stages_joined(run: Run) -> list[str]:
    """The stages of which a scaling run has something to draw.

    Raises:
        UserError: the run is of another stage.
    """
    rows = table_of(run, TABLE, STAGE)
    return [stage for stage in HEADLINES if any(row["stage"] == stage for row in rows)]


def trends_figure(run: Run, title: str, stage: str) -> Figure:
    """A row per metric and site, a panel per relative depth, a line per task or kind.

    Lines are of kinds of units, rules or lenses, of all tasks together; where a stage has no such
    rows, of tasks. The x axis is logarithmic in the number of parameters. What one model alone
    has is not drawn.

    Args:
        run: of scaling.
        title: above the panels.
        stage: one of `stages_joined`.

    Raises:
        UserError: the run is of another stage, or has nothing of this one.
    """
    found = _panels(table_of(run, TABLE, STAGE), stage)
    if not found:
        joined = ", ".join(stages_joined(run)) or "none"
        raise UserError(f"{run.name} has no '{stage}' to draw; it joined: {joined}.")
    by_metric: dict[tuple[str, str], dict[str, Lines]] = {}
    for each, lines in found.items():
        by_metric.setdefault((each.metric, each.unit), {})[each.depth] = lines
    places = _places(found)
    names = list(dict.fromkeys(name for lines in found.values() for name in lines))
    n_columns = max(map(len, by_metric.values()))
    size = 3.0 * n_columns + 1.0, 2.4 * len(by_metric) + 1.6
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(by_metric), n_columns, sharex=True, sharey="row", squeeze=False)
    for panels, ((metric, unit), depths) in zip(axes, by_metric.items(), strict=True):
        for panel in panels[len(depths) :]:
            panel.set_axis_off()
        panels[0].set_ylabel(metric)
        for panel, depth in zip(panels, sorted(depths, key=_order), strict=False):
            _draw_panel(panel, depths[depth], names, places)
            panel.set_title(depth if depth == WHOLE else f"relative depth {depth}", fontsize=10)
        if unit == FRACTION:
            _widen(panels[0])
    _name_models(axes, places)
    figure.align_ylabels()
    add_title(figure, title, NOTE + (SHARED_NOTE if places.shared else ""))
    if names[1:]:
        figure.legend(
            [_look(index) for index in range(len(names))],
            names,
            loc="outside lower center",
            ncols=legend_columns(len(names), size[0]),
            frameon=False,
        )
    return figure


def _panels(rows: list[Row], stage: str) -> dict[Panel, Lines]:
    """What is drawn of a stage: panel by panel its lines, in the order of `HEADLINES`."""
    own = [row for row in rows if row["stage"] == stage and row["relative_depth"] != MEAN]
    found: dict[Panel, Lines] = {}
    for metric in HEADLINES.get(stage, ()):
        drawn = [row for row in own if row["metric"] == metric and _is_drawn(row, own)]
        pooled = [row for row in drawn if row["task"] == ALL_TASKS]
        for row in pooled or drawn:
            depth = WHOLE if row["relative_depth"] == MODEL else row["relative_depth"]
            name = row["kind"].split(":")[0] if pooled else row["task"]
            panel = found.setdefault(Panel(_named(row), depth, row["unit"]), {})
            panel.setdefault(name, []).append(row)
    return {panel: lines for panel, lines in found.items() if _compares(lines)}


def _compares(lines: Lines) -> bool:
    """Whether two models or more have a value."""
    of = {row["model"] for own in lines.values() for row in own if isfinite(float(row["value"]))}
    return len(of) > 1


def _is_drawn(row: Row, rows: list[Row]) -> bool:
    """Of quantities of a grid of kept fractions, whether it is the one nearest to a half."""
    if row["metric"] != OF_GRID:
        return True
    kept = {float(other["kind"].split(":")[1]) for other in rows if other["metric"] == OF_GRID}
    return float(row["kind"].split(":")[1]) == min(kept, key=lambda k: (abs(k - KEPT), k))


def _named(row: Row) -> str:
    """A metric as the y axis names it: with its unit, and whose it is."""
    of_grid = f", kept fraction {row['kind'].split(':')[1]}" if row["metric"] == OF_GRID else ""
    words = row["metric"].removesuffix("_nats").replace("_", " ")
    unit = "" if words.endswith(row["unit"]) else f" ({row['unit']})"
    return f"{words}{unit}\n{row['site']}{of_grid}"


def _order(depth: str) -> tuple[bool, float]:
    """Relative depths ascending, then the whole model."""
    return (True, 0.0) if depth == WHOLE else (False, float(depth))


def _places(found: dict[Panel, Lines]) -> Places:
    """Of all models that are drawn."""
    rows = [row for lines in found.values() for own in lines.values() for row in own]
    return Places({row["model"]: float(row["n_parameters"]) for row in rows})


def _draw_panel(panel: Axes, lines: Lines, names: list[str], places: Places) -> None:
    """One metric at one depth."""
    panel.set_xscale("log")
    for index, name in enumerate(names):
        if name in lines:
            at = [places.of(row["model"], index, len(names)) for row in lines[name]]
            _draw_line(panel, lines[name], np.array(at), index)
            _join(panel, lines[name], at, places, _look(index))
    quieten(panel)
    panel.margins(x=0.12)


def _draw_line(panel: Axes, rows: list[Row], at: NDArray[np.float64], index: int) -> None:
    """Values of several models with the intervals of the table; NaN leaves a gap."""
    values, low, high = (
        np.array([float(row[name] or "nan") for row in rows]) for name in ("value", "low", "high")
    )
    look = _look(index)
    panel.errorbar(
        at,
        values,
        yerr=np.abs(np.stack([low, high]) - values),
        fmt=str(look.get_marker()),
        color=look.get_color(),
        markersize=look.get_markersize(),
        **INTERVALS,
    )


def _join(panel: Axes, rows: list[Row], at: list[float], places: Places, look: Line2D) -> None:
    """Lines from size to size, of which each is one model's: of several none is the right one.

    None leads past a size at which nothing was measured.
    """
    for (one, start), (other, end) in pairwise(zip(rows, at, strict=True)):
        if places.neighbours(one["model"], other["model"]):
            panel.plot(
                [start, end],
                [float(one["value"] or "nan"), float(other["value"] or "nan")],
                color=look.get_color(),
                linestyle=look.get_linestyle(),
                linewidth=1.1,
            )


def _look(index: int) -> Line2D:
    """How a line is drawn: neighbours differ in colour, marker and dashes."""
    marker, size = MARKERS[index % len(MARKERS)]
    return Line2D(
        [],
        [],
        color=COLOURS[index % len(COLOURS)],
        linestyle=DASHES[index % len(DASHES)],
        linewidth=1.1,
        marker=marker,
        markersize=size,
        **EDGE,
    )


def _widen(panel: Axes) -> None:
    """An axis of shares, drawn on already, that shows no difference larger than it is."""
    low, high = panel.get_ylim()
    if high - low < LEAST_SPAN:
        room = LEAST_SPAN / 20  # for points at 0 and at 1
        lowest = min(max((low + high - LEAST_SPAN) / 2, -room), 1 + room - LEAST_SPAN)
        panel.set_ylim(lowest, lowest + LEAST_SPAN)


def _name_models(axes: NDArray[np.object_], places: Places) -> None:
    """Below each column, at the number of its parameters, each model's name."""
    names = [
        "\n".join(f"{model} ({_short(size)})" for model, size in group.items())
        for group in places.groups
    ]
    for column in axes.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.xaxis.set_major_locator(
            FixedLocator([places.middle(group) for group in places.groups])
        )
        lowest.xaxis.set_minor_locator(NullLocator())
        lowest.set_xticklabels(names, rotation=40, ha="right", fontsize=8)
        lowest.set_xlabel("model (parameters, logarithmic)")
        lowest.tick_params(labelbottom=True)


def _short(n_parameters: float) -> str:
    """A number of parameters in three digits."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n_parameters >= unit:
            return f"{n_parameters / unit:.3g} {letter}"
    return f"{n_parameters:.0f}"

"""Draw the communities of co-activation graphs: how large they are, which tasks they prefer."""

from math import ceil, isnan
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.cells import COLOUR_MAP, ink_on
from sdlms.figures.panels import Row, add_title, table_of
from sdlms.runs.reading import Run

COMMUNITIES, TASKS, STAGE = "communities.csv", "community_tasks.csv", "si-modularity"
MOST_ROWS = 12  # communities that are drawn of each layer, the largest
MOST_COLUMNS = 2  # panels beside each other: cells stay readable
ALL = "all"  # the row of all scored units: what a community without a preference looks like
NOTE = "numbers: % of the community's scored units that prefer the task; *: more than chance"


class Map(NamedTuple):
    """What is drawn of one layer.

    Attributes:
        names: of the rows, communities and at last all scored units.
        tasks: of the columns.
        shares: `[row, task]` of the row's units that prefer the task, in [0, 1].
        enriched: `[row, task]` bool.
        title: which communities these are.
    """

    names: list[str]
    tasks: list[str]
    shares: NDArray[np.float64]
    enriched: NDArray[np.bool_]
    title: str


def communities_figure(run: Run, title: str) -> Figure:
    """A map per layer: a row per community, the largest first, a column per task.

    A cell is the share of the community's units that prefer the task, of those that fire often
    enough to prefer one. The last row is of all units of the layer that do. Communities of one
    unit are in no table and not drawn.

    Args:
        run: of si-modularity, with graphs.
        title: above the panels.

    Raises:
        UserError: the run is of another stage, or made no graphs, or found no community.
    """
    maps = _maps(run)
    n_columns = min(MOST_COLUMNS, len(maps))
    n_rows = ceil(len(maps) / n_columns)
    width = max(len(found.tasks) for found in maps) * 0.52 + 1.5
    height = max(len(found.names) for found in maps) * 0.27 + 1.4
    figure = Figure(figsize=(width * n_columns + 0.9, height * n_rows + 0.7), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False).flat)
    most = max(float(np.nanmax(found.shares, initial=0.1)) for found in maps)
    images = [_draw_map(panel, found, most) for panel, found in zip(axes, maps, strict=False)]
    for empty in axes[len(maps) :]:
        empty.remove()
    figure.colorbar(images[0], ax=figure.axes, label="share of units", shrink=0.6)
    add_title(figure, title, NOTE)
    return figure


def _maps(run: Run) -> list[Map]:
    """Of each layer that has communities of two units or more."""
    if not (run.path / TASKS).is_file() and (run.path / "si_modularity.csv").is_file():
        raise UserError(f"{run.name} made no graphs; make it without --no-graph.")
    rows = table_of(run, TASKS, STAGE)
    alone = {row["layer"]: 0 for row in table_of(run, COMMUNITIES, STAGE)}
    for row in table_of(run, COMMUNITIES, STAGE):
        alone[row["layer"]] += 1
    by_layer: dict[str, list[Row]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], []).append(row)
    if not by_layer:
        raise UserError(f"{run.name} found no community of two units; there is nothing to draw.")
    return [_map(layer, own, alone[layer]) for layer, own in by_layer.items()]


def _map(layer: str, rows: list[Row], n_units: int) -> Map:
    """The largest communities of one layer, and all its scored units."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row["community"], {})[row["task"]] = row
    one = {name: cells[tasks[0]] for name, cells in found.items()}
    largest = sorted(found, key=lambda name: (-int(one[name]["units"]), int(name)))[:MOST_ROWS]
    shares = [[float(found[name][task]["fraction"]) for task in tasks] for name in largest]
    marks = [[found[name][task]["enriched"] == "1" for task in tasks] for name in largest]
    drawn = sum(int(one[name]["units"]) for name in largest)
    return Map(
        names=[f"{name} ({int(one[name]['units']):,} units)" for name in largest] + [ALL],
        tasks=tasks,
        shares=np.array([*shares, _expected(found, tasks)]),
        enriched=np.array([*marks, [False] * len(tasks)]),
        title=f"layer {layer}: {len(largest)} of {len(found)} communities,\n"
        f"{drawn:,} of the graph's {n_units:,} units",
    )


def _expected(found: dict[str, dict[str, Row]], tasks: list[str]) -> list[float]:
    """The share of all scored units of the layer that prefer each task."""
    for cells in found.values():
        if scored := int(cells[tasks[0]]["scored"]):
            return [float(cells[task]["expected"]) / scored for task in tasks]
    return [float("nan")] * len(tasks)


def _draw_map(panel: Axes, found: Map, most: float) -> AxesImage:
    """One layer: colours from 0 to the most that any cell has, and the same in numbers."""
    image = panel.imshow(found.shares, cmap=COLOUR_MAP, vmin=0, vmax=most, aspect="auto")
    for (row, column), share in np.ndenumerate(found.shares):
        if isnan(share):
            continue
        marked = bool(found.enriched[row, column])
        panel.text(
            column,
            row,
            f"{100 * share:.0f}{'*' if marked else ''}",
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold" if marked else "normal",
            color=ink_on(share / most),
        )
    panel.axhline(len(found.names) - 1.5, color="white", linewidth=2)
    panel.set_xticks(range(len(found.tasks)), found.tasks, rotation=40, ha="right", fontsize=8)
    panel.set_yticks(range(len(found.names)), found.names, fontsize=8)
    panel.set_xlabel("preferred task")
    panel.set_ylabel("community")
    panel.set_title(found.title, fontsize=9)
    return image

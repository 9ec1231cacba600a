"""What figures of tasks share: a task's colour and marker, points beside each other, quiet axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.storage.tables import read_table

MOST_BESIDE = 4  # runs in one picture
Dashes = Literal["-", "--", "-.", ":"] | tuple[float, tuple[float, ...]]
DASHES: tuple[Dashes, ...] = ("-", "--", "-.", ":", (0, (6, 2)), (0, (4, 1, 1, 1, 1, 1)))
CONFIDENCE_95 = 1.96
# Okabe and Ito (2008): told apart with every kind of colour vision, on screen and in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
# Told apart without colour, with sizes that look alike; one more than there are colours, so that
# pairs repeat late.
MARKERS = (
    *(("o", 5.2), ("s", 4.8), ("^", 5.8), ("D", 4.6)),
    *(("v", 5.8), ("P", 6.4), ("X", 6.2), ("*", 8.0)),
)
GREY = "#6E6E6E"  # of what the others are compared with
EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}  # points that touch
INTERVALS: dict[str, Any] = {**EDGE, "elinewidth": 1.2}  # points with lines through them
NOTE = "lines are 95 % intervals over documents, hidden where they are shorter than the point"
LETTER_INCHES = 0.076  # of a title, on average
LEGEND_INCHES = 1.35  # that a name of a task takes in a legend
Row = dict[str, str]


@dataclass(frozen=True)
class TaskStyle:
    """How the points of one task look in every panel.

    Attributes:
        size: of the marker, in points.
        shift: how far aside they stand, in units of the x axis.
    """

    task: str
    colour: str
    marker: str
    size: float
    shift: float


def site_rows(run: Run, site: str) -> list[Row]:
    """One site's rows of a capture run's table.

    Raises:
        UserError: the site was not captured, or the run is of another stage.
    """
    rows = rows_to_draw(run, "sparsity.csv", "capture")
    own = [row for row in rows if row["site"] == site]
    if not own:
        sites = ", ".join(dict.fromkeys(row["site"] for row in rows))
        raise UserError(f"{run.name}: '{site}' was not captured; this run holds {sites}.")
    return own


def task_styles(rows: Sequence[Row], width: float) -> list[TaskStyle]:
    """A style for each task, in the order of the table; together their points take `width`."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    return [
        TaskStyle(
            task,
            COLOURS[index % len(COLOURS)],
            *MARKERS[index % len(MARKERS)],
            width * ((index + 0.5) / len(tasks) - 0.5),
        )
        for index, task in enumerate(tasks)
    ]


def numbers(rows: Sequence[Row], column: str) -> NDArray[np.float64]:
    """`[row]` one column."""
    return np.array([float(row[column]) for row in rows])


def draw_task(
    panel: Axes,
    style: TaskStyle,
    places: NDArray[np.float64],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> None:
    """One task's points.

    Args:
        panel: where to draw.
        style: of the task.
        places: `[point]` on the x axis, before the style's shift.
        values: `[point]`.
        errors: `[point]` standard errors, drawn as 95 % intervals; NaN draws none.
    """
    panel.errorbar(
        places + style.shift,
        values,
        yerr=CONFIDENCE_95 * errors,
        fmt=style.marker,
        color=style.colour,
        markersize=style.size,
        label=style.task,
        **INTERVALS,
    )


def quieten(panel: Axes, across: Literal["x", "y"] = "y") -> None:
    """No frame, and light lines from the numbers of one axis, below everything else."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=across, linewidth=0.4, alpha=0.5)
    panel.set_axisbelow(True)


def stand_on_zero(panel: Axes) -> None:
    """The y axis from zero; fixes its limits, so draw before."""
    panel.margins(y=0.1)
    panel.set_ylim(bottom=0)


def told_apart(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Names of the panels of runs; where several are the same, each with the name of its run."""
    return [
        name if names.count(name) == 1 else f"{name}\n{run.name}"
        for name, run in zip(names, runs, strict=True)
    ]


def add_title(figure: Figure, title: str, note: str) -> None:
    """Above the panels: what is seen, and below it how to read it, in lines as wide as the figure.

    Args:
        figure: whose width is final.
        title: of one line or more.
        note: likewise.
    """
    width = int(figure.get_size_inches()[0] / LETTER_INCHES)
    lines = [part for line in f"{title}\n{note}".splitlines() for part in wrap(line, width)]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)


def legend_columns(n_entries: int, width: float, entry: float = LEGEND_INCHES) -> int:
    """Columns of a legend below a figure: few rows, and these even.

    Args:
        n_entries: of the legend.
        width: of the figure, in inches.
        entry: inches that the longest of them takes.
    """
    fit = max(1, int(width / entry))
    return max(1, ceil(n_entries / ceil(n_entries / fit)))


def table_of(run: Run, file: str, stage: str) -> list[Row]:
    """The rows of one of a run's tables.

    Raises:
        UserError: the run has no such table; the stage that makes it is named.
    """
    path = run.path / file
    if not path.is_file():
        raise UserError(f"{run.name} holds no {file}; a run of {stage} is needed.")
    return read_table(path)


def rows_to_draw(run: Run, file: str, stage: str) -> list[Row]:
    """The rows of one of a run's tables, of which there is one at least.

    Raises:
        UserError: the run has no such table, or nothing stands in it.
    """
    rows = table_of(run, file, stage)
    if not rows:
        raise UserError(f"{run.name}: {file} has no rows; there is nothing to draw.")
    return rows


def add_frame(figure: Figure, title: str, n_columns: int) -> None:
    """What surrounds the panels: title, what the lines mean, and the legend of the tasks.

    Args:
        figure: with all its panels drawn.
        title: above them.
        n_columns: of the legend.
    """
    add_title(figure, title, NOTE)
    drawn = figure.axes[0].containers
    points = [task[0] for task in drawn]  # without intervals, which say nothing there
    labels = [str(task.get_label()) for task in drawn]
    figure.legend(points, labels, loc="outside lower center", ncols=n_columns, frameon=False)

"""Draw sparse autoencoders: reconstruction against sparsity, and how often latents fire."""

from collections.abc import Iterator
from math import ceil

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from sdlms.figures.panels import (
    COLOURS,
    DASHES,
    GREY,
    INTERVALS,
    MARKERS,
    Row,
    add_title,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
)
from sdlms.runs.reading import Run
from sdlms.storage.latents import LOG_DENSITY_EDGES, LatentsMember, LatentsReader

TABLE, LATENTS, STAGE = "sae.csv", "latents.h5", "sae-train"
MOST_COLUMNS = 3  # panels beside each other
LEGEND_INCHES = 2.6  # that the longest entry takes
L0_TICKS = (0.1, 0.2, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
MEMBER, GIVEN_UP, TAKEN = "member", "given up early", "taken"
PCA = "as many principal components"
ORDER = (MEMBER, GIVEN_UP, TAKEN, PCA)  # in the legend
FVU = "FVU (share of variance not explained)"
FRONT_NOTE = "lines are 95 % intervals over documents, hidden where they are shorter than the point"
DENSITY_NOTE = "of the first seed of each coefficient; the member that was taken is filled"
NEVER = LOG_DENSITY_EDGES[0] - 0.75  # where latents that never fire stand, left of all bins


def front_figure(run: Run, title: str) -> Figure:
    """A panel per layer: FVU against L0 of every member, beside as many principal components.

    Filled points are members, hollow ones were given up while they were trained; a ring is the
    member that was taken. The line leads through the means over seeds, coefficient by
    coefficient.

    Args:
        run: of sae-train or sae-evaluate.
        title: above the panels.

    Raises:
        UserError: the run is of another stage.
    """
    rows = rows_to_draw(run, TABLE, STAGE)
    figure, panels = _panels(rows, FVU, title, FRONT_NOTE)
    for panel, own in panels:
        _draw_front(panel, own)
        panel.set_xlabel("L0 (active latents per token)")
    _scale_l0(panels[0][0], numbers(rows, "l0"))
    for panel, _ in panels:
        panel.set_ylim(bottom=0)
    _add_legend(figure)
    return figure


def densities_figure(run: Run, title: str) -> Figure:
    """A panel per layer: how many latents fire how often, a line per coefficient.

    Args:
        run: of sae-train or sae-evaluate.
        title: above the panels.

    Raises:
        UserError: the run is of another stage, or its `latents.h5` cannot be read.
    """
    rows = rows_to_draw(run, TABLE, STAGE)
    figure, panels = _panels(rows, "latents", title, DENSITY_NOTE)
    names = list(dict.fromkeys(_coefficient(row) for row in rows))
    with LatentsReader(run.path / LATENTS) as reader:
        for panel, own in panels:
            for row in _first_seeds(own):
                look = names.index(_coefficient(row))
                _draw_density(panel, _density(reader, row), row, look)
            panel.set_xlabel("firing rate (share of tokens)")
    ticks = range(int(LOG_DENSITY_EDGES[0]) + 2, 1, 2)  # the first would stand in "never"
    shown = ["never", *(f"1e{tick}" if tick else "1" for tick in ticks)]
    panels[0][0].set_xticks([NEVER, *ticks], shown)
    panels[0][0].set_ylim(bottom=0)
    _add_legend(figure)
    return figure


def _panels(
    rows: list[Row], label: str, title: str, note: str
) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A figure with a panel per site and layer, and the members of each.

    Args:
        rows: of all members.
        label: of the y axis.
        title: above the panels.
        note: below the title.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["site"], row["layer"]), []).append(row)
    n_columns = min(MOST_COLUMNS, len(groups))
    n_rows = ceil(len(groups) / n_columns)
    size = max(5.4, 3.6 * n_columns + 0.6), 3.0 * n_rows + 1.5
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, (panel, (site, layer)) in enumerate(zip(axes, groups, strict=False)):
        panel.set_title(f"{site}, layer {layer}", fontsize=10)
        panel.set_ylabel("" if number % n_columns else label)
        panel.tick_params(labelbottom=True, labelleft=number % n_columns == 0)
        quieten(panel)
    for empty in axes[len(groups) :]:
        empty.remove()
    add_title(figure, title, note)
    return figure, list(zip(axes, groups.values(), strict=False))


def _draw_front(panel: Axes, rows: list[Row]) -> None:
    """Members of one layer and what principal components do."""
    _draw_means([row for row in rows if row["screened"] != "1"], panel)
    for screened, label, face in (("0", MEMBER, COLOURS[0]), ("1", GIVEN_UP, "white")):
        own = [row for row in rows if (row["screened"] == "1") == (screened == "1")]
        if own:
            _draw_members(panel, own, label, face)
    by_l0 = sorted(rows, key=lambda row: float(row["l0"]))
    panel.plot(
        numbers(by_l0, "l0"),
        numbers(by_l0, "pca_fvu"),
        color=GREY,
        linestyle="--",
        linewidth=1.1,
        marker=MARKERS[1][0],
        markersize=3.5,
        label=PCA,
    )
    chosen = [row for row in rows if row["selected"] == "1"]
    panel.plot(
        numbers(chosen, "l0"),
        numbers(chosen, "fvu"),
        linestyle="",
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=COLOURS[5],
        markeredgewidth=1.5,
        label=TAKEN,
    )


def _draw_means(rows: list[Row], panel: Axes) -> None:
    """A line through the means over seeds, from the sparsest coefficient on."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["coefficient"], []).append(row)
    means = sorted(
        (float(numbers(own, "l0").mean()), float(numbers(own, "fvu").mean()))
        for own in found.values()
    )
    panel.plot(*zip(*means, strict=True), color=COLOURS[0], linewidth=1.0)


def _draw_members(panel: Axes, rows: list[Row], label: str, face: str) -> None:
    """Points with the intervals of the table."""
    values = numbers(rows, "fvu")
    ends = np.stack([numbers(rows, f"fvu_{end}") for end in ("low", "high")])
    marker, size = MARKERS[0]
    panel.errorbar(
        numbers(rows, "l0"),
        values,
        yerr=np.abs(ends - values),
        fmt=marker,
        color=COLOURS[0],
        markerfacecolor=face,
        markersize=size,
        label=label,
        **INTERVALS | {"markeredgecolor": COLOURS[0], "markeredgewidth": 1.0},
    )


def _scale_l0(panel: Axes, values: NDArray[np.float64]) -> None:
    """Logarithmic, with numbers as they are said; panels share it."""
    above = values[values > 0] if (values > 0).any() else np.ones(1)
    low, high = float(above.min()) / 1.5, float(above.max()) * 1.5
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    ticks = [tick for tick in L0_TICKS if low <= tick <= high]
    panel.xaxis.set_major_locator(FixedLocator(ticks[:: max(1, ceil(len(ticks) / 7))]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(ScalarFormatter())


def _coefficient(row: Row) -> str:
    """What a member is called in the legend: seeds of one coefficient alike."""
    return f"coefficient {float(row['coefficient']):g}" if row["coefficient"] else row["member"]


def _first_seeds(rows: list[Row]) -> Iterator[Row]:
    """Of each coefficient its first member, or the one that was taken."""
    found: dict[str, Row] = {}
    for row in rows:
        name = _coefficient(row)
        if name not in found or row["selected"] == "1":
            found[name] = row
    return iter(found.values())


def _density(reader: LatentsReader, row: Row) -> NDArray[np.int64]:
    """`[never and bins]` latents of a member."""
    member = LatentsMember(row["site"], int(row["layer"]), row["member"])
    return reader.array(member, "log_density_count").astype(np.int64)


def _draw_density(panel: Axes, counts: NDArray[np.int64], row: Row, look: int) -> None:
    """One member: steps over the bins, and a point for the latents that never fire."""
    colour, dashes = COLOURS[look % len(COLOURS)], DASHES[look % len(DASHES)]
    marker, size = MARKERS[look % len(MARKERS)]
    if row["selected"] == "1":
        panel.stairs(counts[1:], LOG_DENSITY_EDGES, fill=True, color=colour, alpha=0.25)
    panel.stairs(counts[1:], LOG_DENSITY_EDGES, color=colour, linestyle=dashes, linewidth=1.4)
    panel.plot(
        [NEVER],
        counts[:1],
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=size,
        label=_coefficient(row),
        clip_on=False,
    )


def _add_legend(figure: Figure) -> None:
    """Each look once, whichever panels have it."""
    found: dict[str, Artist] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(str(label), handle)
    names = sorted(found, key=lambda name: ORDER.index(name) if name in ORDER else 0)
    figure.legend(
        [found[name] for name in names],
        names,
        loc="outside lower center",
        ncols=legend_columns(len(found), float(figure.get_size_inches()[0]), LEGEND_INCHES),
        frameon=False,
    )

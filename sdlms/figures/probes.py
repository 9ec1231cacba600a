"""Draw what probes read off each layer, beside what a random direction and shuffled labels give."""

from math import ceil
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.figures.panels import (
    COLOURS,
    GREY,
    INTERVALS,
    MARKERS,
    Dashes,
    Row,
    add_title,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
)
from sdlms.runs.reading import Run

TABLE, STAGE = "probe.csv", "probe"


class Look(NamedTuple):
    """How a kind of probe is drawn, in every picture the same.

    Attributes:
        marker: a number in `MARKERS`.
    """

    colour: str
    marker: int
    dashes: Dashes


# Controls are grey: what a probe is worth is its distance from them.
LOOKS = {
    "logistic": Look(COLOURS[0], 0, "-"),
    "mlp": Look(COLOURS[5], 1, "--"),
    "attention": Look(COLOURS[2], 2, "-."),
    "multimax": Look(COLOURS[3], 3, (0, (3, 1, 1, 1, 1, 1))),
    "gated_bipolar": Look(COLOURS[4], 4, (0, (6, 2))),
    "mass_mean": Look(COLOURS[1], 5, (0, (4, 1, 1, 1))),
    "random_direction": Look(GREY, 6, ":"),
    "shuffled_labels": Look(GREY, 7, "--"),
}
DODGE = 0.7  # of the distance between two layers, which all kinds take together
MOST_COLUMNS = 3  # panels beside each other
LAYER_INCHES, LEAST_INCHES, MOST_INCHES = 0.55, 3.2, 7.0  # widths of a panel
NOTE = (
    "lines are 95 % intervals over documents, hidden where they are shorter than the point; "
    "grey: controls"
)


def auroc_figure(run: Run, title: str) -> Figure:
    """A panel per label: AUROC of each kind of probe by layer, with the controls.

    Of several seeds the first is drawn, whose intervals are those of the table; small points
    are the others.

    Args:
        run: of probe.
        title: above the panels.

    Raises:
        UserError: the run is of another stage.
    """
    rows = rows_to_draw(run, TABLE, STAGE)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    layers = sorted({int(row["layer"]) for row in rows})
    present = [kind for kind in LOOKS if any(row["kind"] == kind for row in rows)]
    n_columns = min(MOST_COLUMNS, len(labels))
    n_rows = ceil(len(labels) / n_columns)
    width = n_columns * min(MOST_INCHES, max(LEAST_INCHES, LAYER_INCHES * len(layers))) + 0.6
    figure = Figure(figsize=(width, 2.6 * n_rows + 1.3), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat)
    for number, (panel, label) in enumerate(zip(axes, labels, strict=False)):
        own = [row for row in rows if row["label"] == label]
        _draw_label(panel, own, {layer: place for place, layer in enumerate(layers)}, present)
        panel.set_title(label, fontsize=10)
        panel.set_ylabel("" if number % n_columns else "AUROC (0.5: chance)")
        panel.tick_params(labelbottom=True)
        panel.set_xlabel("layer" if number + n_columns >= len(labels) else "")
    for empty in axes[len(labels) :]:
        empty.remove()
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    more = f"; seed {seeds[0]}; small points: other seeds" if seeds[1:] else ""
    add_title(figure, title, NOTE + more)
    handles, _ = axes[0].get_legend_handles_labels()
    figure.legend(
        [handle[0] for handle in handles],
        [kind.replace("_", " ") for kind in present],
        loc="outside lower center",
        ncols=legend_columns(len(present), width),
        frameon=False,
    )
    return figure


def _draw_label(panel: Axes, rows: list[Row], places: dict[int, int], present: list[str]) -> None:
    """All kinds of probes for one label."""
    first = rows[0]["seed"]
    panel.axhline(0.5, color="black", linewidth=0.6)
    for index, kind in enumerate(present):
        shift = DODGE * ((index + 0.5) / len(present) - 0.5)
        of_kind = [row for row in rows if row["kind"] == kind]
        own = [row for row in of_kind if row["seed"] == first]
        others = [row for row in of_kind if row["seed"] != first]
        _draw_kind(panel, own, [places[int(row["layer"])] + shift for row in own], kind)
        panel.plot(
            [places[int(row["layer"])] + shift for row in others],
            numbers(others, "auroc"),
            linestyle="",
            marker=".",
            markersize=3,
            color=LOOKS[kind].colour,
        )
    panel.set_xticks(range(len(places)), [str(layer) for layer in places])
    quieten(panel)


def _draw_kind(panel: Axes, rows: list[Row], places: list[float], kind: str) -> None:
    """One kind of probe, with the intervals of the table; a thin line leads from layer to layer."""
    look = LOOKS[kind]
    marker, size = MARKERS[look.marker]
    values = numbers(rows, "auroc")
    ends = np.stack([numbers(rows, f"auroc_{end}") for end in ("low", "high")])
    panel.plot(places, values, color=look.colour, linestyle=look.dashes, linewidth=0.9)
    panel.errorbar(
        places,
        values,
        yerr=np.abs(ends - values),
        fmt=marker,
        color=look.colour,
        markersize=size,
        label=kind,
        **INTERVALS,
    )

"""Draw what a capture run measured: how sparse neurons are, by layer and task."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlms.storage.tables import read_table

CONFIDENCE_95 = 1.96
PANELS = (
    ("activation_fraction", "activation fraction\n(share of neurons above 0)"),
    ("participation_ratio", "participation ratio\n(effective number of active neurons)"),
)
# Okabe and Ito (2008): told apart with every kind of colour vision, on screen and in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def sparsity_figure(sparsity_csv: Path, title: str, site: str = "mlp_act") -> Figure:
    """Activation fraction and participation ratio by layer, one colour per task.

    Args:
        sparsity_csv: of a capture run.
        title: above the panels.
        site: which site's rows are drawn.

    Returns:
        A figure whose bars are 95 % intervals over documents.
    """
    rows = [row for row in read_table(sparsity_csv) if row["site"] == site]
    layers = sorted({int(row["layer"]) for row in rows})
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for panel, (column, label) in zip(axes, PANELS, strict=True):
        for index, task in enumerate(tasks):
            own = [row for row in rows if row["task"] == task]
            shift = 0.55 * ((index + 0.5) / len(tasks) - 0.5)
            _draw_task(panel, own, layers, column, COLOURS[index % len(COLOURS)], shift)
        panel.set_xticks(range(len(layers)), [str(layer) for layer in layers])
        panel.set_xlabel("layer")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", linewidth=0.4, alpha=0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_task(
    panel: Axes,
    rows: Sequence[dict[str, str]],
    layers: list[int],
    column: str,
    colour: str,
    shift: float,
) -> None:
    """One task's points with their intervals."""
    places = np.array([layers.index(int(row["layer"])) for row in rows]) + shift
    values = np.array([float(row[column]) for row in rows])
    errors = CONFIDENCE_95 * np.array([float(row[f"{column}_se"]) for row in rows])
    panel.errorbar(
        places,
        values,
        yerr=errors,
        fmt="o",
        markersize=3.5,
        linewidth=1.2,
        capsize=3,
        color=colour,
        label=rows[0]["task"],
    )

"""Draw what a model would say after each layer: means over layers; one document, cell by cell."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.figures.cells import COLOUR_MAP, drawable, ink_on
from sdlms.figures.panels import (
    COLOURS,
    EDGE,
    MARKERS,
    Row,
    add_title,
    legend_columns,
    numbers,
    quieten,
    rows_to_draw,
)
from sdlms.runs.reading import Run
from sdlms.storage.lens_file import LensReader

TABLE, LENS_FILE, STAGE = "logit_lens.csv", "lens.h5", "logit-lens"
ALL, MODEL = "all", "model"
PANELS = (
    ("entropy_nats", "entropy (nats)"),
    ("kl_to_final_nats", "KL from the final layer (nats)"),
    ("loss_nats", "loss of the next token (nats)"),
    ("accuracy", "next token is the first guess"),
    ("agreement", "first guess is the final one"),
    ("decided_fraction", "final guess stands from here on"),
)
DASHES = ("-", "--", "-.")
NOTE = "bands are 95 % intervals over documents; dotted: what chance gives"


class Look(NamedTuple):
    """How a line is drawn in every panel."""

    colour: str
    marker: tuple[str, float]
    dashes: str


class Said(NamedTuple):
    """What a lens says of some tokens, `[token, state]`.

    Attributes:
        texts: of the most probable tokens.
        probabilities: theirs.
        follows: whether it is the token that follows.
    """

    texts: list[list[str]]
    probabilities: NDArray[np.float64]
    follows: NDArray[np.bool_]


def curves_figure(run: Run, title: str, by: Literal["lens", "task"] = "lens") -> Figure:
    """A panel per quantity over the layers, a line per lens (of all tasks) or per task.

    Args:
        run: of logit-lens.
        title: above the panels.
        by: what lines tell apart; of tasks the logit lens is drawn.

    Raises:
        UserError: the run is of another stage.
    """
    rows = _rows(run)
    names = list(dict.fromkeys(row[by] for row in rows if by == "lens" or row["task"] != ALL))
    fixed = {"task": ALL} if by == "lens" else {"lens": "logit"}
    own = [row for row in rows if fixed.items() <= row.items()]
    figure = Figure(figsize=(10.2, 6.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    for panel, (column, label) in zip(axes.flat, PANELS, strict=True):
        for number, name in enumerate(names):
            _draw_line(panel, [row for row in own if row[by] == name], column, _look(number), name)
        panel.set_title(label, fontsize=10)
        panel.set_ylim(bottom=0, top=None if column.endswith("nats") else 1.02)
        quieten(panel)
    _name_layers(axes[-1], own)
    add_title(figure, title, NOTE)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    columns = legend_columns(len(names), figure.get_figwidth())
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _rows(run: Run) -> list[Row]:
    """The rows of states."""
    return [row for row in rows_to_draw(run, TABLE, STAGE) if row["site"] != MODEL]


def _look(number: int) -> Look:
    """Neighbours differ in colour, marker and dashes."""
    return Look(
        COLOURS[number % len(COLOURS)],
        MARKERS[number % len(MARKERS)],
        DASHES[number % len(DASHES)],
    )


def _place(row: Row) -> float:
    """Where a state stands on the x axis: the embedding at -1, after attention half-way."""
    layer = int(row["layer"])
    return {"resid_pre": layer - 1.0, "resid_mid": layer - 0.5}.get(row["site"], float(layer))


def _draw_line(panel: Axes, rows: Sequence[Row], column: str, look: Look, name: str) -> None:
    """One lens or task: its line, its band, and chance where the table has it."""
    places = np.array([_place(row) for row in rows])
    marker, size = look.marker
    panel.plot(
        places,
        numbers(rows, column),
        color=look.colour,
        linestyle=look.dashes,
        linewidth=1.3,
        marker=marker,
        markersize=size,
        label=name,
        **EDGE,
    )
    low, high = (numbers(rows, f"{column}_{end}") for end in ("low", "high"))
    panel.fill_between(places, low, high, color=look.colour, alpha=0.2, linewidth=0)
    if f"{column}_chance" in rows[0]:
        chance = numbers(rows, f"{column}_chance")
        panel.plot(places, chance, color=look.colour, linestyle=":", linewidth=0.9)


def _name_layers(panels: NDArray[np.object_], rows: Sequence[Row]) -> None:
    """Numbers of layers, as many as there is room for; the embedding by its name."""
    layers = sorted({int(row["layer"]) for row in rows if row["site"] == "resid_post"})
    step = max(1, -(-len(layers) // 12))
    shown = layers[::-1][::step][::-1]
    for panel in panels:
        panel.set_xticks([-1, *shown], ["emb.", *map(str, shown)])
        panel.set_xlabel("after layer")


def heat_map(
    run: Run, document: int, title: str, lens: str = "logit", tokens: tuple[int, int] = (0, 12)
) -> Figure:
    """What the model would say after each layer and token of a document, coloured by probability.

    Args:
        run: of logit-lens.
        document: its number in `lens.h5`, from 0.
        title: above the cells.
        lens: `logit`, or `tuned` where the run has it.
        tokens: first and last + 1 of its tokens that are drawn.

    Raises:
        UserError: the run is of another stage, or has no such document, tokens or lens.
    """
    path = run.path / LENS_FILE
    if not path.is_file():
        raise UserError(f"{run.name} holds no {LENS_FILE}; a run of {STAGE} is needed.")
    with LensReader(path) as reader:
        first, last = _span(reader, run.name, document, tokens)
        said = _said(reader, lens, first, last, int(reader.offsets[document + 1]))
        read = reader.texts(reader.rows().ids[first:last])
        names = [_state_name(site, layer) for site, layer in reader.states]
    figure = Figure(figsize=(1.6 + 0.82 * len(read), 1.7 + 0.34 * len(names)), layout="constrained")
    panel = figure.subplots()
    values = said.probabilities.T
    drawn = panel.imshow(values, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto", origin="lower")
    _write_cells(panel, said)
    words = [drawable(word) for word in read]
    panel.set_xticks(range(len(read)), words, rotation=45, ha="right", fontsize=8)
    for label in panel.get_xticklabels():
        label.set_parse_math(False)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_xlabel("token that is read last; a guess in bold is what follows")
    panel.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=panel, label="probability of the first guess", pad=0.01)
    return figure


def _span(reader: LensReader, name: str, document: int, tokens: tuple[int, int]) -> tuple[int, int]:
    """Rows of some tokens of a document."""
    n_documents = len(reader.offsets) - 1
    if not 0 <= document < n_documents:
        raise UserError(f"{name} holds documents 0 to {n_documents - 1}, not {document}.")
    begin, end = (int(place) for place in reader.offsets[document : document + 2])
    first, last = begin + tokens[0], min(begin + tokens[1], end)
    if not begin <= first < last:
        raise UserError(f"{name}: document {document} has {end - begin} tokens, not {tokens}.")
    return first, last


def _state_name(site: str, layer: int) -> str:
    """A state as people call it."""
    return {"resid_pre": "embedding", "resid_mid": f"attention {layer}"}.get(site, f"layer {layer}")


def _said(reader: LensReader, lens: str, first: int, last: int, end: int) -> Said:
    """The first guesses of some rows of a document that ends before row `end`."""
    top_ids = np.asarray(reader.read(lens, "top_ids", first, last)[..., 0], dtype=np.int64)
    top = reader.read(lens, "top_probabilities", first, last)[..., 0]
    flat = reader.texts(top_ids.ravel())
    n_states = top_ids.shape[1]
    next_ids = np.full(last - first, -1)
    following = reader.rows().ids[first + 1 : min(last + 1, end)]
    next_ids[: len(following)] = following
    return Said(
        texts=[flat[row * n_states : (row + 1) * n_states] for row in range(last - first)],
        probabilities=np.asarray(top, dtype=np.float64),
        follows=top_ids == next_ids[:, None],
    )


def _write_cells(panel: Axes, said: Said) -> None:
    """The text of each cell, dark on light and light on dark."""
    for (column, row), value in np.ndenumerate(said.probabilities):
        panel.text(
            column,
            row,
            drawable(said.texts[column][row]),
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold" if said.follows[column, row] else "normal",
            color=ink_on(value),
            parse_math=False,
        )

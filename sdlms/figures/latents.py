"""Draw what latents of a sparse autoencoder fire on: the strongest documents, word by word."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from sdlms.errors import UserError
from sdlms.figures.cells import GLYPHS, with_glyphs
from sdlms.figures.panels import add_title
from sdlms.figures.strongest import N_TOP, Strongest, strongest_of
from sdlms.figures.words import Context, Words, words_of
from sdlms.runs.reading import Run

N_PANELS = 6  # drawn by default
FONT, FONT_SIZE = "DejaVu Sans Mono", 7.5  # comes with matplotlib
LETTER_POINTS = 0.602 * FONT_SIZE  # its width
TASK_LETTERS, BEFORE, TOKEN, AFTER = 16, 62, 16, 58
GAP = 0.5  # letters on both sides of the token, for its frame
HIGHLIGHT = "#FFE9A8"
NOTE = (
    "each line: the largest activation of a document, its task, and the text around the token, "
    "which is marked"
)
NUMBERS_NOTE = (
    "each line: the largest activation of a document, its task, and its number; no run beside this "
    "one has both its tokens and their texts (a capture and a logit-lens run would)"
)


def latent_panels(
    run: Run,
    title: str,
    beside: Iterable[Run] = (),
    layer: int | None = None,
    latents: Sequence[int] | None = None,
) -> Figure:
    """A panel per latent of one autoencoder: the documents on which it is strongest.

    Runs number documents and tokens; their text is taken from other runs, and where these lack
    it, numbers are drawn.

    Args:
        run: of sae-latents, with the documents of a capture; or of sae-train or sae-evaluate,
            with those that were held out, of the member that was taken.
        title: above the panels.
        beside: other runs, as `words_of` takes them: captures of the documents, and one of
            logit-lens for the texts of tokens.
        layer: by default the middle one of those that the run has.
        latents: which; by default, task after task, those of whose firings the largest share is
            in the task, of latents that fire in five documents at least.

    Raises:
        UserError: the run is of another stage, or has no such layer or latent, or no latent
            that fires so often.
    """
    strongest = strongest_of(run, layer)
    width = len(strongest.rates)
    chosen = _most_exclusive(strongest) if latents is None else list(latents)
    if wrong := [latent for latent in chosen if not 0 <= latent < width]:
        raise UserError(f"{run.name}: the SAE has latents 0 to {width - 1}, not {wrong[0]}.")
    if not chosen:
        raise UserError(f"{run.name}: no latent of {strongest.name} fires in {N_TOP} documents.")
    words = words_of(run, [run, *beside])
    height = len(chosen) * (0.16 * N_TOP + 0.34) + 0.7
    figure = Figure(figsize=(10.8, height), layout="constrained")
    panels = figure.subplots(len(chosen), 1, squeeze=False).flat
    has_words = False
    for panel, latent in zip(panels, chosen, strict=True):
        panel.set_title(_described(strongest, latent), fontsize=9, loc="left", pad=2)
        has_words |= _draw_latent(panel, strongest, latent, words)
    add_title(figure, f"{title}\n{strongest.name}", NOTE if has_words else NUMBERS_NOTE)
    return figure


def _most_exclusive(strongest: Strongest) -> list[int]:
    """Task after task the latent that fires most exclusively there, until there are enough."""
    often = (strongest.documents[:, -1] >= 0).nonzero()[0]
    counts = strongest.task_counts[:, often].astype(np.float64)
    orders = [
        often[np.argsort(-own, kind="stable")].tolist() for own in counts / counts.sum(axis=0)
    ]
    turns = [latent for turn in zip(*orders, strict=True) for latent in turn]
    return list(dict.fromkeys(turns))[:N_PANELS]


def _described(strongest: Strongest, latent: int) -> str:
    """A latent's name, how often it fires, and where mostly."""
    counts = strongest.task_counts[:, latent]
    if not counts.sum():
        return f"latent {latent}: never fires"
    most = int(counts.argmax())
    return (
        f"latent {latent}: fires on {100 * strongest.rates[latent]:.3g} % of tokens; "
        f"{100 * counts[most] / counts.sum():.0f} % of its firings are in {strongest.tasks[most]}"
    )


def _draw_latent(panel: Axes, strongest: Strongest, latent: int, words: Words) -> bool:
    """A line per document; columns are letters wide. Whether one has words is returned."""
    panel.set_axis_off()
    panel.set_ylim(N_TOP - 0.4, -0.6)
    held = [number for number in strongest.documents[latent].tolist() if number >= 0]
    positions = strongest.positions[latent].tolist()[: len(held)]
    places = [(strongest.document_ids[n], at) for n, at in zip(held, positions, strict=True)]
    contexts = words.around(places)
    for line, (place, context) in enumerate(zip(places, contexts, strict=True)):
        task = _cut(strongest.document_tasks[held[line]], TASK_LETTERS)
        _write(panel, line, 0, f"{strongest.activations[latent, line]:7.3g}  {task}")
        at = TASK_LETTERS + 11
        if context is None:
            _write(panel, line, at, f"document {place[0]}, token {place[1]}")
        else:
            _write_context(panel, line, at, context)
    return any(context is not None for context in contexts)


def _write_context(panel: Axes, line: int, at: int, context: Context) -> None:
    """The token stands in one column in all lines.

    What is around it is set against its sides, not by counting letters: at some resolutions a
    letter is drawn wider than it is.
    """
    before, after = _seen(context.before)[-BEFORE:], _seen(context.after)[:AFTER]
    _write(panel, line, at + BEFORE - GAP, before).set_horizontalalignment("right")
    token = _write(panel, line, at + BEFORE, _cut(_seen(context.token), TOKEN))
    token.set_fontweight("bold")
    token.set_bbox({"facecolor": HIGHLIGHT, "edgecolor": "black", "linewidth": 0.5, "pad": 1.0})
    behind = _write(panel, line, GAP, after)
    behind.xy, behind.xycoords = (1, line), (token, "data")


def _write(panel: Axes, line: int, letters: float, text: str) -> Annotation:
    """Text that begins so many letters from the left."""
    return panel.annotate(
        with_glyphs(text, FONT),
        xy=(0, line),
        xycoords=("axes fraction", "data"),
        xytext=(letters * LETTER_POINTS, 0),
        textcoords="offset points",
        va="center",
        fontfamily=FONT,
        fontsize=FONT_SIZE,
        annotation_clip=False,
        parse_math=False,
    )


def _seen(text: str) -> str:
    """Breaks of lines as signs; spaces stay what they are."""
    return "".join(GLYPHS.get(letter, letter) if letter != " " else letter for letter in text)


def _cut(text: str, letters: int) -> str:
    """No longer than so many letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"

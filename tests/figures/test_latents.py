"""Panels of latents: documents in their order, words where there are any, numbers elsewhere."""

from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from sdlms.errors import UserError
from sdlms.figures import latents
from sdlms.figures.latents import latent_panels
from sdlms.figures.strongest import N_TOP
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.figures.overlaps import assert_apart, assert_nothing_overlaps
from tests.figures.sae_runs import TOKENIZER, sae_run
from tests.figures.table_runs import table_run
from tests.lens.lens_files import rows_of, write_lens

LONG = " " + "long" * 12


def lens_run(artifacts: Path) -> Run:
    """Documents of five tokens, with words that are not easy to draw."""
    with RunWriter("logit-lens", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"tokenizer": TOKENIZER}, "control": "none"}, {})
        rows = rows_of([5] * 10, ["qa"] * 10)
        write_lens(out.path / "lens.h5", rows, vocabulary=(" a", "語", "\n", "$x$", LONG))
        out.output("lens.h5")
    return Run(out.path)


def lines_of(figure: Figure) -> list[list[Annotation]]:
    """`[panel]` what is written."""
    return [[t for t in panel.texts if isinstance(t, Annotation)] for panel in figure.axes]


def drawn_box(text: Annotation, renderer: RendererAgg) -> Bbox:
    """Of the letters and, where there is one, of the frame around them."""
    frame = text.get_bbox_patch()
    return (frame or text).get_window_extent(renderer)


def test_documents_stand_in_their_order_with_numbers_where_no_run_has_words(tmp_path: Path) -> None:
    figure = latent_panels(sae_run(tmp_path), "a title", latents=[3, 0])
    third, first = figure.axes
    assert (
        third.get_title("left")
        == "latent 3: fires on 4 % of tokens; 82 % of its firings are in math"
    )
    assert (
        first.get_title("left") == "latent 0: fires on 1 % of tokens; 80 % of its firings are in qa"
    )
    written = [text.get_text() for text in lines_of(figure)[0]]
    expected = []
    for rank in range(N_TOP):
        document = 3 + rank
        expected += [
            f"{9.5 - rank:7.3g}  {('qa', 'math')[document % 2]}",
            f"document {document:016x}, token 2",
        ]
    assert written == expected
    assert "resid_post, layer 2, k_8_seed0" in figure.get_suptitle()
    assert "no run beside" in " ".join(figure.get_suptitle().splitlines())
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize("dots_per_inch", [100, 144, 200])  # letters are whole dots wide
def test_words_are_drawn_with_the_token_marked(tmp_path: Path, dots_per_inch: int) -> None:
    lens = lens_run(tmp_path)
    figure = latent_panels(sae_run(tmp_path), "a title", [lens], layer=1, latents=[0])
    figure.set_dpi(dots_per_inch)
    assert "layer 1" in figure.get_suptitle() and "no run" not in figure.get_suptitle()
    ids = rows_of([5] * 10, ["qa"] * 10).ids
    shown = (" a", "□", "↵", "$x$", " longlonglonglo…")
    marked = [text for text in lines_of(figure)[0] if text.get_fontweight() == "bold"]
    assert [text.get_text() for text in marked] == [shown[ids[5 * n + 2]] for n in range(N_TOP)]
    assert all(text.get_bbox_patch() is not None for text in marked)
    columns = {text.xyann[0] for text in marked}
    assert len(columns) == 1  # below each other
    assert_nothing_overlaps(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for line in range(N_TOP):
        own = [t for t in lines_of(figure)[0] if t.xy[1] == line and t.get_text()]
        boxes = sorted((drawn_box(t, renderer) for t in own), key=lambda b: b.x0)
        assert all(box.x1 <= figure.bbox.x1 for box in boxes)
        assert len(boxes) == 4
        assert_apart(boxes)  # the frame of the mark too


def test_by_default_each_task_has_its_most_exclusive_latents(tmp_path: Path) -> None:
    figure = latent_panels(sae_run(tmp_path), "a title")
    names = [panel.get_title("left").split(":")[0] for panel in figure.axes]
    # Of those that fire in five documents: 0 to 5; the higher the number, the more exclusive.
    assert names == [f"latent {n}" for n in (4, 5, 2, 3, 0, 1)]
    assert len(names) == latents.N_PANELS


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    run = sae_run(tmp_path)
    with pytest.raises(UserError, match=r"has no SAE of layer 7; its layers are: 1, 2\.$"):
        latent_panels(run, "a title", layer=7)
    with pytest.raises(UserError, match=r"the SAE has latents 0 to 7, not 8\.$"):
        latent_panels(run, "a title", latents=[0, 8])
    other = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no sae\.csv; a run of sae-train or sae-lat"):
        latent_panels(other, "a title")

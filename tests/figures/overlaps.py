"""A figure, drawn: no panel, legend, title or label covers another, none leaves the figure."""

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox

SLACK = 1.0  # pixels that boxes may touch


def assert_nothing_overlaps(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [panel.get_tightbbox(renderer) for panel in figure.axes]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    if figure.get_suptitle():
        boxes.append(figure._suptitle.get_window_extent(renderer))
    assert_apart(boxes)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 - SLACK <= box.y0 and box.y1 <= figure.bbox.y1 + SLACK
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            labels = [label for label in axis.get_ticklabels() if label.get_text()]
            drawn = [label for label in labels if label.get_visible()]
            assert_apart([turned_box(label, renderer) for label in drawn])


def turned_box(label: Text, renderer: RendererAgg) -> Bbox:
    """Where a label stands, seen so that its letters stand upright.

    What is turned about its middle keeps its middle; boxes of labels that are turned alike
    overlap as the labels do.
    """
    angle = label.get_rotation()
    box = label.get_window_extent(renderer)
    x, y = Affine2D().rotate_deg(-angle).transform(((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
    label.set_rotation(0)
    upright = label.get_window_extent(renderer)
    label.set_rotation(angle)
    return Bbox.from_bounds(
        x - upright.width / 2, y - upright.height / 2, upright.width, upright.height
    )


def assert_apart(boxes: Sequence[Bbox]) -> None:
    for number, box in enumerate(boxes):
        for other in boxes[number + 1 :]:
            wide = min(box.x1, other.x1) - max(box.x0, other.x0)
            high = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert wide <= SLACK or high <= SLACK

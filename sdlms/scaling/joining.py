"""Models side by side: the values of their runs at the same relative depths, as `scaling.csv`."""

from collections.abc import Callable, Iterator, Sequence
from math import fsum
from typing import NamedTuple

from sdlms.errors import UserError
from sdlms.scaling.metrics import TABLES, Metric, metrics_of
from sdlms.scaling.sources import Source, Subject
from sdlms.storage.tables import Cell

Row = dict[str, Cell]
Key = tuple[str, Subject, Metric, str]  # stage, whose, what, on which text
LayerAt = Callable[[float, int], int]
"""The layer at a relative depth of a model with so many layers."""
MEAN = "mean"  # the relative depth of a mean over depths
MODEL = "model"  # and of what belongs to no layer
COLUMNS = [
    *("stage", "site", "kind", "task", "metric", "unit", "relative_depth"),
    *("model", "n_parameters", "n_layers", "layer", "value", "low", "high", "control", "run"),
]


class Point(NamedTuple):
    """A value of one model at one relative depth, of the mean over depths, or of the whole model.

    Attributes:
        source: the run.
        layer: None of a mean and of the whole model.
        value: NaN where it could not be measured.
        low: lower end of its interval; None where there is none.
        high: upper end.
    """

    source: Source
    layer: int | None
    value: float
    low: float | None = None
    high: float | None = None


class Series(NamedTuple):
    """One quantity over models: what a trend is of.

    Attributes:
        stage: which measured it.
        subject: whose units.
        metric: the quantity.
        task: on which text.
        depth: a fraction of the layers, `mean`, or `model`.
        points: one per model that has the layer, smallest model first.
    """

    stage: str
    subject: Subject
    metric: Metric
    task: str
    depth: float | str
    points: list[Point]

    @property
    def key(self) -> Row:
        """The cells that name it."""
        return {
            "stage": self.stage,
            "site": self.subject.site,
            "kind": self.subject.kind,
            "task": self.task,
            "metric": self.metric.name,
            "unit": self.metric.unit,
            "relative_depth": self.depth,
        }

    def rows(self) -> Iterator[Row]:
        """One per model, by `COLUMNS`."""
        for point in self.points:
            source = point.source
            yield self.key | {
                "model": source.model,
                "n_parameters": source.n_parameters,
                "n_layers": source.n_layers,
                "layer": point.layer,
                "value": point.value,
                "low": point.low,
                "high": point.high,
                "control": source.control,
                "run": source.run.name,
            }


def depths_of(source: Source, depths: Sequence[float], layer_at: LayerAt) -> dict[float, int]:
    """The layer of a run at each relative depth; depths whose layer it lacks are left out.

    A run that measured whole models alone has no layer anywhere.

    Layers that coincide were captured once: such a layer stands at each of its depths.

    Raises:
        UserError: the run has layers, and none of them.
    """
    if not source.layers:
        return {}
    wanted = {depth: layer_at(depth, source.n_layers) for depth in depths}
    found = {depth: layer for depth, layer in wanted.items() if layer in source.layers}
    if not found:
        named = ", ".join(f"{depth:.4g}" for depth in depths)
        raise UserError(
            f"--runs: {source.described} has layers {', '.join(map(str, source.layers))} of "
            f"{source.n_layers}, none of which is at a relative depth of {named}. Name others by "
            "--depths, or make it anew with --layers all."
        )
    return found


def joined(sources: Sequence[Source], depths: Sequence[float], layer_at: LayerAt) -> list[Series]:
    """Every quantity over models, depth after depth, the mean over depths, then the whole model.

    The mean of a model is over the depths at which all models have a layer, each counted once; it
    is NaN where one of these values is. Where there is no such depth, there is no mean.

    Args:
        sources: comparable runs.
        depths: fractions of the layers, ascending.
        layer_at: the rule by which layers were chosen.

    Returns:
        By stage, metric, site and task. Neither the runs' order nor their names matter.

    Raises:
        UserError: a run has no layer at any of the depths.
    """
    found: dict[Key, dict[float | None, list[Point]]] = {}
    for source in sorted(sources, key=lambda s: (s.n_parameters, s.model, s.subjects)):
        at = depths_of(source, depths, layer_at)
        for value in source.values:
            key = source.stage, value.subject, value.metric, value.task
            by_depth = found.setdefault(key, {})
            point = Point(source, value.layer, value.value, value.low, value.high)
            depths_here = [depth for depth, layer in at.items() if layer == value.layer]
            for place in [None] if value.layer is None else depths_here:
                by_depth.setdefault(place, []).append(point)
    return [series for key in sorted(found, key=_order) for series in _series(key, found[key])]


def _order(key: Key) -> tuple[int, Subject, int, str]:
    """Stages and metrics as their tables have them."""
    stage, subject, metric, task = key
    return list(TABLES).index(stage), subject, metrics_of(stage).index(metric), task


def _series(key: Key, by_depth: dict[float | None, list[Point]]) -> Iterator[Series]:
    """One quantity at each depth, its mean, and of the whole model."""
    at_layers = {depth: points for depth, points in by_depth.items() if depth is not None}
    for depth in sorted(at_layers):
        yield Series(*key, depth, at_layers[depth])
    sources = list(dict.fromkeys(p.source for points in at_layers.values() for p in points))
    shared = [points for points in at_layers.values() if len(points) == len(sources)]
    means = []
    for source in sorted(sources, key=lambda s: (s.n_parameters, s.model)):
        values = [point.value for points in shared for point in points if point.source is source]
        means.append(Point(source, None, fsum(values) / max(1, len(values))))
    if shared:
        yield Series(*key, MEAN, means)
    if None in by_depth:
        yield Series(*key, MODEL, by_depth[None])

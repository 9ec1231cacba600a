"""How each quantity moves with the size of the model: the rows of `trends.csv`."""

from math import isfinite, nan

from sdlms.numerics.trends import (
    COVERAGE_OF_FEW,
    FEWEST_SIZES,
    LEVEL,
    slope_interval,
    slope_per_decade,
    spearman,
)
from sdlms.scaling.joining import Row, Series

COLUMNS = [
    *("stage", "site", "kind", "task", "metric", "unit", "relative_depth"),
    *("n_models", "n_missing", "smallest_model", "largest_model"),
    *("value_of_smallest", "value_of_largest", "value_least", "value_most"),
    *("spearman", "p_value", "slope_per_decade", "slope_low", "slope_high", "reason"),
]


def trend_row(series: Series, seed: int) -> Row:
    """A row of `trends.csv`, of the models whose value is a number; the others are counted.

    Args:
        series: one quantity over models, smallest model first.
        seed: of the bootstrap, the same for every series, so that all draw the same models.

    Returns:
        The cells by `COLUMNS`. With fewer than three sizes rho and the interval are NaN, with fewer
        than two the slope is, and `reason` says so; also by how much the interval of three or four
        models is too narrow.
    """
    import numpy as np

    points = [point for point in series.points if isfinite(point.value)]
    sizes = np.array([point.source.n_parameters for point in points], dtype=np.int64)
    values = np.array([point.value for point in points], dtype=np.float64)
    enough = len(np.unique(sizes)) >= FEWEST_SIZES
    rho, p_value = spearman(sizes, values, seed) if enough else (nan, nan)
    low, high = slope_interval(sizes, values, seed=seed)
    return series.key | {
        "n_models": len(points),
        "n_missing": len(series.points) - len(points),
        "smallest_model": points[0].source.model if points else "",
        "largest_model": points[-1].source.model if points else "",
        "value_of_smallest": points[0].value if points else nan,
        "value_of_largest": points[-1].value if points else nan,
        "value_least": min((point.value for point in points), default=nan),
        "value_most": max((point.value for point in points), default=nan),
        "spearman": rho,
        "p_value": p_value,
        "slope_per_decade": slope_per_decade(sizes, values),
        "slope_low": low,
        "slope_high": high,
        "reason": _reason(len(points), len(np.unique(sizes)), len(np.unique(values))),
    }


def _reason(n_models: int, n_sizes: int, n_values: int) -> str:
    """Why something is NaN, or not what it seems; otherwise empty."""
    if n_sizes == 0:
        return "no model has a value"
    if n_sizes < FEWEST_SIZES:
        return f"{n_sizes} model size{'s' * (n_sizes != 1)}, fewer than {FEWEST_SIZES}"
    if n_values == 1:
        return "the same value in all models"
    if covered := COVERAGE_OF_FEW.get(n_models):
        return f"{n_models} models: the interval covers about {covered:.0%}, not {LEVEL:.0%}"
    return ""

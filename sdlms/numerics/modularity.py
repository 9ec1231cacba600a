"""Modularity of a weighted graph that is given as edge arrays."""

import numpy as np
from numpy.typing import NDArray


def modularity(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    weight: NDArray[np.float64],
    labels: NDArray[np.int64],
    resolution: float = 1.0,
) -> float:
    """How much more weight lies inside communities than strengths alone would put there.

    Q = sum over communities of w_in / m - resolution (s / 2m)^2, with w_in the weight inside, s
    the sum of its units' strengths and m the weight of all edges.

    Args:
        first: `[edge]` int64, one end of each edge; each pair of units once, no unit with itself.
        second: `[edge]` int64, the other end.
        weight: `[edge]` float64, each > 0.
        labels: `[unit]` int64 >= 0, each unit's community; anything where a unit has no edge.
        resolution: above 1 favours small communities.

    Returns:
        In [-1/2, 1) at resolution 1; NaN where there is no edge.

    Source: Newman (2004), "Analysis of weighted networks", eq. 8; Reichardt and Bornholdt (2006)
    for the resolution.
    """
    total = weight.sum()
    if not len(weight) or total == 0:
        return float("nan")
    ends = labels[first], labels[second]
    n_communities = int(max(ends[0].max(), ends[1].max())) + 1
    inside = weight[ends[0] == ends[1]].sum()
    strengths = np.bincount(ends[0], weight, n_communities)
    strengths += np.bincount(ends[1], weight, n_communities)
    return float(inside / total - resolution * np.sum((strengths / (2 * total)) ** 2))

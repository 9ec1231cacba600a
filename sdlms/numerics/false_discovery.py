"""Which of many tests to believe: q values that bound the share of false discoveries."""

import numpy as np
from numpy.typing import NDArray

FALSE_DISCOVERY_RATE = 0.05  # a test whose q lies below it is called a discovery


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p: of the tests with q <= x, a share of at most x is expected to be false.

    Holds where tests are independent, or depend on each other positively.

    Args:
        p: `[test]` in [0, 1]; may be empty.

    Returns:
        `[test]` q in [0, 1], at least `p`.

    Raises:
        ValueError: other shape, or a p that is not in [0, 1].

    Source: Benjamini and Hochberg (1995), "Controlling the false discovery rate".
    """
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must be [test] in [0, 1], got shape {p.shape}")
    falling = np.argsort(-p, kind="stable")
    scaled = p[falling] * len(p) / np.arange(len(p), 0, -1)
    q = np.empty(len(p))
    q[falling] = np.minimum(np.minimum.accumulate(scaled), 1)
    return q

"""Small rows for tests of the cache, and a cache that collects its warnings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache import Cache
from sdlms.explorer.cache_limits import CacheLimits
from sdlms.explorer.columns import HIDDEN, Columns, columns_of

Rows = dict[str, NDArray[np.generic]]
SMALL = columns_of(3, 4, 2, "fp16")
GROUPS = tuple(SMALL.groups)
KEY = {"model": "tiny", "dtype": "float32"}
NO_LIMITS = CacheLimits()


def random_rows(group: str, n_tokens: int, seed: int, columns: Columns = SMALL) -> Rows:
    """Rows as `Cache.put` takes them; hidden states are such that float16 holds them exactly."""
    generator = np.random.default_rng(seed)
    if group == HIDDEN:
        shape = (n_tokens, columns.n_states, columns.d_model)
        return {HIDDEN: generator.normal(size=shape).astype(np.float16)}
    return {
        column.name: (50 * generator.normal(size=(n_tokens, *column.shape))).astype(column.dtype)
        for column in columns.groups[group].columns
    }


def are_equal(found: Rows, expected: Rows) -> bool:
    """Whether all arrays are, bit by bit."""
    return set(found) == set(expected) and all(
        found[name].tobytes() == expected[name].tobytes() for name in expected
    )


def small_cache(
    folder: Path | None,
    limits: CacheLimits = NO_LIMITS,
    columns: Columns = SMALL,
    warn: Callable[[str], None] = lambda text: None,
) -> Cache:
    """A cache of small rows."""
    return Cache(folder, KEY, columns, limits, warn)

"""Small rows for tests of the cache, and a cache that collects its warnings."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.cache.columns import HIDDEN, Columns
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.writer import Job

Rows = dict[str, NDArray[np.generic]]
SMALL = Columns(3, 4, 2, "fp16")
GROUPS = tuple(SMALL.groups)
KEY = {"model": "tiny", "dtype": "float32"}
NO_LIMITS = CacheLimits()
TOO_LITTLE = CacheLimits(memory_bytes=1)


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


@contextmanager
def open_cache(folder: Path | None, limits: CacheLimits = NO_LIMITS) -> Iterator[Cache]:
    cache = small_cache(folder, limits)
    try:
        yield cache
    finally:
        cache.close()


def fill(cache: Cache, name: str, n_tokens: int = 5, seed: int = 0) -> None:
    """A record and rows of all groups."""
    cache.save_record(name, {"name": name, "seed": seed})
    for group in GROUPS:
        cache.put(name, group, 0, random_rows(group, n_tokens, seed))


def holds(cache: Cache, name: str, n_tokens: int = 5, seed: int = 0) -> bool:
    """Whether all of it is there."""
    for group in GROUPS:
        found = cache.get(name, group, range(n_tokens))
        if not found.present.all() or found.flaw:
            return False
        assert are_equal(found.arrays, random_rows(group, n_tokens, seed))
    return cache.record(name) == {"name": name, "seed": seed}


def settle(cache: Cache) -> None:
    """Wait until the writer has done what was asked of it, and kept the limits afterwards."""
    for _ in range(2):  # between the two the writer rests
        with cache._changed:
            if cache._writer.is_alive:
                cache._writer.add(Job("", lambda: None, "nothing"))
                cache._writer.wait_for(lambda job: True)


def obstruct(path: Path, kind: str) -> None:
    """Put something there that is no regular file."""
    match kind:
        case "folder":
            (path / "precious").mkdir(parents=True)
        case "pipe":
            os.mkfifo(path)
        case "link":
            path.symlink_to("nowhere")

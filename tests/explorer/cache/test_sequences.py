"""The cache after any sequence of calls, and with ten callers at once."""

import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.limits import CacheLimits
from tests.explorer.cached_rows import (
    GROUPS,
    NO_LIMITS,
    TOO_LITTLE,
    Rows,
    are_equal,
    open_cache,
    random_rows,
    settle,
)


class Model:
    """What a cache without limits must hold, in plain dictionaries."""

    def __init__(self) -> None:
        self.records: dict[str, int] = {}
        self.rows: dict[tuple[str, str], dict[int, Rows]] = {}

    def put(self, name: str, group: str, first: int, rows: Rows) -> None:
        kept = self.rows.setdefault((name, group), {})
        n_tokens = len(next(iter(rows.values())))
        kept.update({first + i: {n: a[i] for n, a in rows.items()} for i in range(n_tokens)})

    def truncate(self, name: str, n_tokens: int) -> None:
        for group in GROUPS:
            kept = self.rows.get((name, group), {})
            self.rows[name, group] = {p: row for p, row in kept.items() if p < n_tokens}

    def delete(self, name: str) -> None:
        self.records.pop(name, None)
        for group in GROUPS:
            self.rows.pop((name, group), None)

    def check(self, cache: Cache, name: str, group: str, positions: list[int]) -> None:
        kept = self.rows.get((name, group), {})
        found = cache.get(name, group, positions)
        assert list(found.present) == [position in kept for position in positions]
        assert not found.flaw
        for i, position in enumerate(positions):
            for n, array in found.arrays.items():
                expected = kept[position][n] if position in kept else np.zeros_like(array[i])
                assert array[i].tobytes() == expected.tobytes()


def step(cache: Cache, model: Model, name: str, draw: random.Random) -> None:
    """One random operation, on both."""
    group = draw.choice(GROUPS)
    first, n_tokens, seed = draw.randrange(100), draw.randrange(1, 20), draw.randrange(1 << 30)
    match draw.choice(["put", "put", "put", "get", "get", "record", "truncate", "delete", "flush"]):
        case "put":
            rows = random_rows(group, n_tokens, seed)
            cache.put(name, group, first, rows)
            model.put(name, group, first, rows)
        case "get":
            model.check(cache, name, group, [draw.randrange(120) for _ in range(n_tokens)])
        case "record":
            cache.save_record(name, {"seed": seed})
            model.records[name] = seed
        case "truncate" if draw.random() < 0.3:
            cache.truncate(name, first)
            model.truncate(name, first)
        case "delete" if draw.random() < 0.3:
            assert cache.delete(name) == (name in model.records)
            model.delete(name)
        case "flush" if draw.random() < 0.3:
            settle(cache)
    record = cache.record(name)
    assert (record or {}).get("seed") == model.records.get(name)


def check_all(cache: Cache, models: dict[str, Model]) -> None:
    for name, model in models.items():
        for group in GROUPS:
            model.check(cache, name, group, list(range(130)))
            kept = model.rows.get((name, group), {})
            assert list(cache.present(name, group, 130)) == [p in kept for p in range(130)]
    assert cache.ids() == sorted(name for name, model in models.items() if model.records)


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 1 << 30), st.sampled_from([NO_LIMITS, TOO_LITTLE]))
def test_any_sequence_gives_what_a_dictionary_gives(seed: int, limits: CacheLimits) -> None:
    draw = random.Random(seed)
    models = {name: Model() for name in "ab"}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with open_cache(Path(folder), limits) as cache:
                for _ in range(20):
                    name = draw.choice("ab")
                    step(cache, models[name], name, draw)
                check_all(cache, models)
            # What has no record when the cache is opened again is nobody's.
            for model in models.values():
                if not model.records:
                    model.rows.clear()
        with open_cache(Path(folder), limits) as cache:
            check_all(cache, models)


def share(cache: Cache, name: str, draw: random.Random) -> None:
    """Write and read where others do too; a row's content depends on its position only."""
    first, group = draw.randrange(50), draw.choice(GROUPS)
    cache.put(name, group, first, random_rows(group, 1, seed=first))
    cache.save_record(name, {"by": first})
    found = cache.get(name, group, [first, draw.randrange(50)])
    rows = random_rows(group, 1, seed=first)
    present = found.present[:1]  # another may have deleted it
    here = {n: a[:1][present] for n, a in found.arrays.items()}
    assert are_equal(here, {n: a[present] for n, a in rows.items()})
    assert not found.flaw
    cache.status(), cache.sizes()
    if draw.random() < 0.05:
        cache.delete(name)


@pytest.mark.parametrize("limits", [NO_LIMITS, TOO_LITTLE])
def test_ten_at_once_do_not_disturb_each_other(tmp_path: Path, limits: CacheLimits) -> None:
    models = {f"own{i}": Model() for i in range(10)}

    def work(cache: Cache, number: int) -> None:
        draw = random.Random(number)
        for turn in range(25):
            step(cache, models[f"own{number}"], f"own{number}", draw)
            share(cache, f"shared{turn % 2}", draw)

    with open_cache(tmp_path, limits) as cache:
        with ThreadPoolExecutor(10) as threads:
            for done in [threads.submit(work, cache, i) for i in range(10)]:
                done.result()
        for name in ("shared0", "shared1"):
            cache.delete(name)
        check_all(cache, models)
        assert not cache.status()["warnings"] and not cache.status()["memory_only"]
    for model in models.values():
        if not model.records:
            model.rows.clear()
    with open_cache(tmp_path, limits) as cache:
        check_all(cache, models)


def test_many_at_once_and_a_disk_that_is_too_small(tmp_path: Path) -> None:
    """Who writes is evicted all the time: nothing stands still, and what is said to be there is."""
    limits = CacheLimits(memory_bytes=1, disk_bytes=60_000)

    def work(cache: Cache, number: int) -> None:
        draw = random.Random(number)
        for turn in range(15):
            name = f"c{draw.randrange(8)}"
            cache.save_record(name, {"turn": turn})
            share(cache, name, draw)
            cache.set_persisted(name, draw.random() < 0.2)
            assert cache.present(name, "logit", 50).shape == (50,)
            if name not in cache.ids():
                cache.wait_for_record(name)

    with open_cache(tmp_path, limits) as cache:
        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(work, cache, i) for i in range(6)]:
                done.result(60)
        settle(cache)
        folder = next(tmp_path.glob("*/.lock")).parent
        assert cache.ids() == sorted(path.stem for path in folder.glob("[!.]*.json"))
        assert not cache.status()["memory_only"] and cache._writer.is_alive
        n_bytes = sum(path.stat().st_blocks * 512 for path in folder.glob("[!.]*.[jh]*"))
        assert cache.status()["disk_used_mb"] == round(n_bytes / 10**6, 3)
        assert any(cache.n_evictions(f"c{i}") for i in range(8))

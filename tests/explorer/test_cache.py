import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlms.explorer.cache import Cache, CacheLimits
from sdlms.explorer.columns import columns_of
from tests.explorer.cached_rows import (
    GROUPS,
    KEY,
    NO_LIMITS,
    SMALL,
    Rows,
    are_equal,
    random_rows,
    small_cache,
)

TOO_LITTLE = CacheLimits(memory_bytes=1)


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


def test_rows_come_from_memory_then_from_the_disk_then_from_memory(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        assert cache.get("c", "logit", [4, 1]).source == "memory"
        assert cache.get("c", "logit", [5]).source == "none"
    with open_cache(tmp_path) as cache:
        assert cache.ids() == ["c"]
        assert cache.get("c", "logit", [4, 1]).source == "disk"
        found = cache.get("c", "logit", [4, 1, 7, 0])
        assert found.source == "disk" and list(found.present) == [True, True, False, True]
        assert cache.get("c", "logit", [4, 1, 0]).source == "memory"
        assert holds(cache, "c")


@pytest.mark.parametrize("limits", [NO_LIMITS, TOO_LITTLE])
def test_some_states_are_slices_of_all(tmp_path: Path, limits: CacheLimits) -> None:
    with open_cache(tmp_path, limits) as cache:
        fill(cache, "c")
        fill(cache, "d")
        for group in GROUPS:
            found = cache.get("c", group, [3, 2], [2, 0])
            rows = random_rows(group, 5, seed=0)
            assert are_equal(found.arrays, {n: a[[3, 2]][:, [2, 0]] for n, a in rows.items()})


def test_a_read_of_some_hidden_states_reads_and_checks_only_these(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.h5"))
    whole = bytearray(path.read_bytes())
    row = random_rows("hidden", 5, seed=0)["hidden"][2, 1].tobytes()
    at = whole.index(row)
    whole[at] ^= 1
    path.write_bytes(whole)
    with open_cache(tmp_path) as cache:
        assert cache.get("c", "hidden", range(5), [0, 2]).present.all()
        found = cache.get("c", "hidden", range(5), [1])
        assert list(found.present) == [True, True, False, True, True] and found.flaw
        assert "damaged" in cache.status()["warnings"][0]
        cache.put("c", "hidden", 2, {"hidden": random_rows("hidden", 5, 0)["hidden"][2:3]})
        assert holds(cache, "c")
    with open_cache(tmp_path) as cache:
        assert holds(cache, "c")


def test_larger_numbers_come_out_as_float32(tmp_path: Path) -> None:
    hidden = np.full((2, 3, 4), 3e5, np.float32)
    with open_cache(tmp_path) as cache:
        cache.save_record("c", {})
        cache.put("c", "hidden", 0, {"hidden": hidden})
        before = cache.get("c", "hidden", [0, 1]).arrays["hidden"]
    with open_cache(tmp_path) as cache:
        after = cache.get("c", "hidden", [0, 1]).arrays["hidden"]
    assert before.dtype == np.float32 and np.allclose(before, hidden, rtol=1e-3)
    assert before.tobytes() == after.tobytes()


def test_without_stored_hidden_states_memory_has_them_and_the_disk_does_not(
    tmp_path: Path,
) -> None:
    columns = columns_of(SMALL.n_states, SMALL.d_model, SMALL.n_top, "none")
    for is_there in (True, False):
        cache = small_cache(tmp_path, columns=columns)
        if is_there:
            fill(cache, "c")
        assert cache.get("c", "hidden", range(5)).present.all() == is_there
        assert cache.get("c", "logit", range(5)).present.all()
        cache.close()


def test_what_was_put_is_not_changed_by_its_owner(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        record = {"tokens": [1, 2]}
        rows = random_rows("hidden", 5, seed=0)
        cache.save_record("c", record)
        cache.put("c", "hidden", 0, rows)
        record["tokens"].append(3)
        rows["hidden"][:] = 0
        kept = cache.record("c")
        assert kept == {"tokens": [1, 2]}
        kept.clear()
        assert cache.record("c") == {"tokens": [1, 2]}
    with open_cache(tmp_path) as cache:
        assert are_equal(cache.get("c", "hidden", range(5)).arrays, random_rows("hidden", 5, 0))
        assert cache.record("c") == {"tokens": [1, 2]}


def test_another_model_sees_nothing_of_it(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        other = Cache(tmp_path, {**KEY, "model": "other"}, SMALL, NO_LIMITS, lambda text: None)
        assert other.ids() == [] and other.record("c") is None
        assert not other.get("c", "logit", [0]).present.any()
        assert other.status()["disk_used_mb"] > 0  # of both together
        other.close()


@pytest.mark.parametrize("limits", [NO_LIMITS, TOO_LITTLE])
def test_truncated_rows_are_absent_also_after_a_restart(
    tmp_path: Path, limits: CacheLimits
) -> None:
    with open_cache(tmp_path, limits) as cache:
        fill(cache, "c")
        fill(cache, "d")
        cache.truncate("c", 4)
        cache.truncate("c", 2, "tuned")
        assert [int(cache.present("c", group, 9).sum()) for group in GROUPS] == [4, 4, 2]
    with open_cache(tmp_path, limits) as cache:
        assert [int(cache.present("c", group, 9).sum()) for group in GROUPS] == [4, 4, 2]
        assert not cache.get("c", "tuned", [2]).present.any()
        assert holds(cache, "d")


def test_deleted_conversations_are_gone(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        fill(cache, "d")
        assert cache.set_persisted("c", True)
        assert cache.delete("c") and not cache.delete("c")
        assert cache.ids() == ["d"] and cache.record("c") is None and not cache.persisted("c")
        assert not cache.get("c", "logit", [0]).present.any()
        assert not list(tmp_path.glob("*/c.*"))
        fill(cache, "c", seed=1)
        assert holds(cache, "c", seed=1)
    with open_cache(tmp_path) as cache:
        assert holds(cache, "c", seed=1) and holds(cache, "d") and not cache.persisted("c")


def test_persisted_ones_are_known_after_a_restart(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for name in ("c", "d", "e"):
            fill(cache, name)
            cache.set_persisted(name, True)
        cache.set_persisted("d", False)
        assert not cache.set_persisted("unknown", True)
    with open_cache(tmp_path) as cache:
        assert [cache.persisted(name) for name in ("c", "d", "e", "x")] == [
            True,
            False,
            True,
            False,
        ]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../c", "a\0", "x" * 65, "c.json", "c\n"])
def test_other_ids_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    with open_cache(tmp_path) as cache:
        for call in (
            lambda: cache.record(name),
            lambda: cache.save_record(name, {}),
            lambda: cache.put(name, "logit", 0, random_rows("logit", 1, 0)),
            lambda: cache.get(name, "logit", [0]),
            lambda: cache.present(name, "logit", 1),
            lambda: cache.truncate(name, 0),
            lambda: cache.delete(name),
            lambda: cache.persisted(name),
            lambda: cache.set_persisted(name, True),
        ):
            with pytest.raises(ValueError, match="no conversation"):
                call()


def test_a_conversation_may_be_called_key(tmp_path: Path) -> None:
    for _ in range(2):
        with open_cache(tmp_path) as cache:
            fill(cache, "key")
            assert holds(cache, "key")
        with open_cache(tmp_path) as cache:
            assert holds(cache, "key") and cache.ids() == ["key"]


def test_positions_and_states_that_are_none_are_a_bug(tmp_path: Path) -> None:
    with open_cache(None) as cache:
        fill(cache, "c")
        for positions, states in (([-1], None), ([0], [3]), ([0], [-1])):
            with pytest.raises(ValueError, match="there are no"):
                cache.get("c", "logit", positions, states)
        with pytest.raises(ValueError, match="no position"):
            cache.put("c", "logit", -1, random_rows("logit", 1, 0))


def test_under_a_small_memory_limit_rows_come_from_the_disk(tmp_path: Path) -> None:
    with open_cache(tmp_path, TOO_LITTLE) as cache:
        for i in range(8):
            fill(cache, f"c{i}", seed=i)
        cache.flush()
        assert cache.status()["memory_used_mb"] < 0.1
        assert cache.get("c0", "hidden", range(5)).source == "disk"
        assert all(holds(cache, f"c{i}", seed=i) for i in range(8))


def test_in_memory_only_rows_may_go_and_records_stay() -> None:
    with open_cache(None, TOO_LITTLE) as cache:
        for i in range(8):
            fill(cache, f"c{i}", seed=i)
        assert all(cache.record(f"c{i}") == {"name": f"c{i}", "seed": i} for i in range(8))
        assert len(cache.ids()) == 8
        assert not cache.get("c0", "hidden", range(5)).present.any()
        assert cache.delete("c0") and len(cache.ids()) == 7
        assert cache.set_persisted("c1", True) and cache.persisted("c1")
        assert cache.sizes()["c1"] > 0
        assert cache.status()["memory_only"] and not cache.status()["warnings"]


def test_under_a_small_disk_limit_the_oldest_go_and_persisted_ones_stay(tmp_path: Path) -> None:
    with open_cache(tmp_path / "measured") as cache:
        fill(cache, "c00")
        cache.flush()
        limit = 4 * cache.sizes()["c00"] + 1_000
    with open_cache(tmp_path / "limited", CacheLimits(disk_bytes=limit)) as cache:
        for i in range(12):
            fill(cache, f"c{i:02}", seed=i)
            if i == 1:
                cache.set_persisted("c01", True)
            cache.flush()
            time.sleep(0.002)
        names = cache.ids()
        assert 3 <= len(names) <= 4
        assert names == ["c01", *(f"c{i:02}" for i in range(13 - len(names), 12))]
        assert all(holds(cache, name, seed=int(name[1:])) for name in names)
        assert cache.record("c00") is None
        assert cache.status()["disk_used_mb"] <= limit / 2**20
        assert cache.status()["disk_conversations"] == len(names)


def test_reading_a_record_is_no_use_and_touching_is_one(tmp_path: Path) -> None:
    with open_cache(tmp_path / "measured") as cache:
        fill(cache, "c0")
        cache.flush()
        limit = 2 * cache.sizes()["c0"] + 1_000
    for used, left in (("record", ["c1", "c2"]), ("touch", ["c0", "c2"])):
        with open_cache(tmp_path / used, CacheLimits(disk_bytes=limit)) as cache:
            for name in ("c0", "c1"):
                fill(cache, name)
                cache.flush()
                time.sleep(0.002)
            getattr(cache, used)("c0")
            fill(cache, "c2")
            cache.flush()
            assert cache.ids() == left


def test_the_one_that_is_written_stays_however_small_the_limit(tmp_path: Path) -> None:
    with open_cache(tmp_path, CacheLimits(disk_bytes=1)) as cache:
        for i in range(3):
            fill(cache, f"c{i}", seed=i)
            cache.flush()
            assert holds(cache, f"c{i}", seed=i)
        assert cache.ids() == ["c2"]
        assert "more than its limit" in cache.status()["warnings"][0]


def test_age_empties_both_levels_but_not_what_is_persisted(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for name in ("c", "d"):
            fill(cache, name)
        cache.set_persisted("d", True)
    with open_cache(tmp_path, CacheLimits(disk_seconds=0.2, memory_seconds=0.1)) as cache:
        deadline = time.monotonic() + 10
        while cache.ids() != ["d"] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert cache.ids() == ["d"]
    assert not list(tmp_path.glob("*/c.*"))


def test_a_second_cache_on_the_folder_is_in_memory_only(tmp_path: Path) -> None:
    said: list[str] = []
    with open_cache(tmp_path) as first:
        fill(first, "c")
        second = small_cache(tmp_path, warn=said.append)
        assert len(said) == 1 and "in use by another explorer" in said[0]
        assert second.status()["memory_only"] and second.status()["warnings"] == said
        fill(second, "c", seed=1)
        second.close()
        assert holds(first, "c")
    with open_cache(tmp_path) as third:
        assert holds(third, "c")


def test_a_folder_that_cannot_be_one_means_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    cache = small_cache(tmp_path / "file" / "cache", warn=said.append)
    fill(cache, "c")
    assert holds(cache, "c") and cache.status()["memory_only"]
    assert len(said) == 1 and "\n" not in said[0] and "memory only" in said[0]
    cache.close()


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.explorer.cached_rows import random_rows, small_cache
rows = random_rows("logit", 3, 0)
if os.geteuid() == 0:
    os.setuid(65534)  # root writes everywhere
said = []
cache = small_cache(Path(sys.argv[1]), warn=said.append)
cache.save_record("c", {"a": 1})
cache.put("c", "logit", 0, rows)
assert cache.get("c", "logit", range(3)).present.all() and cache.record("c") == {"a": 1}
assert cache.status()["memory_only"]
cache.close()
assert len(said) == 1 and "Permission denied" in said[0], said
"""


def test_a_read_only_folder_means_memory_only() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        subprocess.run([sys.executable, "-c", READ_ONLY, name], check=True)
        assert not list(Path(name).iterdir())
        Path(name).chmod(0o755)


def test_a_full_disk_means_memory_only_and_nothing_is_lost_meanwhile(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_cache(tmp_path) as cache:
        fill(cache, "before")
        cache.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            fill(cache, "after", seed=1)
            cache.save_record("before", {"name": "before", "seed": 0, "new": True})
            cache.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        status = cache.status()
        assert status["memory_only"] and "File too large" in status["warnings"][0]
        assert holds(cache, "after", seed=1)
        fill(cache, "later", seed=2)
        assert holds(cache, "later", seed=2)
        assert cache.record("before") == {"name": "before", "seed": 0, "new": True}
        assert cache.ids() == ["after", "before", "later"]
        assert cache.delete("before") and cache.ids() == ["after", "later"]
    with open_cache(tmp_path) as cache:
        assert cache.ids() == []


def test_a_flipped_byte_anywhere_gives_no_wrong_row(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.h5"))
    whole = path.read_bytes()
    generator = random.Random(0)
    places = generator.sample(range(len(whole)), 25)
    for group in GROUPS:
        for array in random_rows(group, 5, seed=0).values():
            at = whole.find(array[3].tobytes())
            places.append(at + generator.randrange(array[3].nbytes))
    n_flaws = 0
    for at in places:
        content = bytearray(whole)
        content[at] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        with open_cache(tmp_path) as cache:
            for group in GROUPS:
                found = cache.get("c", group, range(5))
                rows = {n: a[found.present] for n, a in random_rows(group, 5, seed=0).items()}
                assert are_equal({n: a[found.present] for n, a in found.arrays.items()}, rows)
                assert found.flaw == (not found.present.all())
                n_flaws += found.flaw
            assert cache.record("c") == {"name": "c", "seed": 0}
    assert n_flaws >= 15


@pytest.mark.parametrize("spoil", ["cut", "empty", "missing", "folder"])
def test_rows_that_cannot_be_read_are_put_anew(tmp_path: Path, spoil: str) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.h5"))
    content = {"cut": path.read_bytes()[:-2000], "empty": b""}
    path.unlink()
    if spoil in content:
        path.write_bytes(content[spoil])
    elif spoil == "folder":
        path.mkdir()
    with open_cache(tmp_path) as cache:
        found = cache.get("c", "logit", range(5))
        assert not found.present.any() and found.flaw == (spoil != "missing")
        assert not cache.present("c", "logit", 5).any()
        assert cache.record("c") == {"name": "c", "seed": 0}
        fill(cache, "c", seed=1)
        assert holds(cache, "c", seed=1)


def test_a_damaged_record_is_put_aside_and_told(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.json"))
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":7'))
    with open_cache(tmp_path) as cache:
        assert cache.record("c") is None and cache.ids() == []
        assert "c.json.damaged-1" in cache.status()["warnings"][0]
        assert not cache.get("c", "logit", range(5)).present.any()


WRITE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from tests.explorer.cached_rows import GROUPS, random_rows, small_cache
cache = small_cache(Path(sys.argv[1]))
for i in count():
    name = f"c{i % 3}"
    for group in GROUPS:
        cache.put(name, group, 4 * (i // 3), random_rows(group, 4, seed=i))
    cache.save_record(name, {"n_tokens": 4 * (i // 3) + 4})
    if i == 240:
        cache.flush()
        print("well under way", flush=True)
"""


def test_after_a_kill_records_and_rows_are_right(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
    with open_cache(tmp_path) as cache:
        assert cache.ids() == ["c0", "c1", "c2"]
        for k, name in enumerate(cache.ids()):
            record = cache.record(name)
            assert record is not None and record["n_tokens"] >= 320
            for group in GROUPS:
                found = cache.get(name, group, range(320 + 400))
                assert found.present[:320].all() and not found.flaw
                for turn in range(180):
                    span = slice(4 * turn, 4 * turn + 4)
                    here = found.present[span]
                    rows = random_rows(group, 4, seed=3 * turn + k)
                    rows = {n: a[here] for n, a in rows.items()}
                    assert are_equal({n: a[span][here] for n, a in found.arrays.items()}, rows)
        assert not cache.status()["warnings"]


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
            cache.flush()
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

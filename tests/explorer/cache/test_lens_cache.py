"""What is put into the cache comes out again."""

import threading
from pathlib import Path

import numpy as np
import pytest

from sdlms.explorer.cache import writer
from sdlms.explorer.cache.columns import Columns
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.cache.writer import Job
from tests.explorer.cached_rows import (
    GROUPS,
    KEY,
    NO_LIMITS,
    SMALL,
    TOO_LITTLE,
    are_equal,
    fill,
    holds,
    open_cache,
    random_rows,
    settle,
    small_cache,
)


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
    columns = Columns(SMALL.n_states, SMALL.d_model, SMALL.n_top, "none")
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


def test_whoever_marks_faster_than_the_disk_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    with open_cache(tmp_path) as cache:
        cache.save_record("c", {})
        settle(cache)
        monkeypatch.setattr(writer, "MOST_WAITING", 1)
        with cache._changed:
            cache._writer.add(Job("", lambda: goes_on.wait(10) and None, "nothing"))
        threading.Timer(0.05, goes_on.set).start()
        assert cache.set_persisted("c", True) and goes_on.is_set()

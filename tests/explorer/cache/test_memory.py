from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlms.explorer.cache.columns import packed, unpacked
from sdlms.explorer.cache.memory import BLOCK_TOKENS, MemoryLevel
from tests.explorer.cached_rows import GROUPS, SMALL, Rows, are_equal, random_rows

STATES = range(SMALL.n_states)
BLOCK_BYTES = {
    group: BLOCK_TOKENS * (1 + sum(a[0].nbytes for a in packed(SMALL, group, rows).values()))
    for group, rows in ((group, random_rows(group, 1, 0)) for group in GROUPS)
}


def put(memory: MemoryLevel, name: str, group: str, first: int, rows: Rows, now: float = 0) -> None:
    kept = packed(SMALL, group, rows)
    memory.put(name, group, range(first, first + len(kept[next(iter(kept))])), kept, now)


def counted_bytes(memory: MemoryLevel) -> int:
    """What all arrays and records take, found by walking through them."""
    total = 0
    waiting: list[Any] = list(memory._kept.values())
    while waiting:
        item = waiting.pop()
        if isinstance(item, np.ndarray):
            total += item.nbytes
        elif isinstance(item, bytes):
            total += len(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif hasattr(item, "__dict__"):
            waiting.extend(vars(item).values())
    return total


@pytest.mark.parametrize("group", GROUPS)
def test_rows_come_back_in_any_order_and_by_state(group: str) -> None:
    memory = MemoryLevel(SMALL.groups, 1 << 30)
    rows = random_rows(group, 100, seed=0)
    put(memory, "c", group, 30, rows)
    positions = [129, 30, 64, 63, 64, 5, 130, 1_000]
    arrays, present = memory.get("c", group, positions, [2, 0])
    assert list(present) == [True] * 5 + [False] * 3
    picked = {n: a[[99, 0, 34, 33, 34]][:, [2, 0]] for n, a in rows.items()}
    assert are_equal(unpacked(group, {n: a[:5] for n, a in arrays.items()}), picked)
    assert not any(array[5:].any() for array in arrays.values())
    assert list(memory.marks("c", group, 131)) == [30 <= p < 130 for p in range(131)]


def test_what_comes_out_can_be_changed_freely() -> None:
    memory = MemoryLevel(SMALL.groups, 1 << 30)
    put(memory, "c", "logit", 0, random_rows("logit", 3, seed=0))
    memory.get("c", "logit", [0], STATES)[0]["top_ids"][:] = 7
    arrays, _ = memory.get("c", "logit", range(3), STATES)
    assert are_equal(arrays, random_rows("logit", 3, seed=0))


def test_the_least_recently_used_conversation_goes_first() -> None:
    memory = MemoryLevel(SMALL.groups, 3 * BLOCK_BYTES["logit"])
    for name in ("a", "b", "c"):
        put(memory, name, "logit", 0, random_rows("logit", 1, seed=0))
    memory.touch("a", 1)
    put(memory, "d", "logit", 0, random_rows("logit", 1, seed=0))
    here = [name for name in "abcd" if memory.marks(name, "logit", 1).all()]
    assert here == ["a", "c", "d"]


def test_a_conversation_that_is_too_large_alone_keeps_its_latest_rows() -> None:
    memory = MemoryLevel(SMALL.groups, 3 * BLOCK_BYTES["logit"])
    put(memory, "c", "logit", 0, random_rows("logit", 10 * BLOCK_TOKENS, seed=0))
    assert memory.used_bytes == counted_bytes(memory) == 3 * BLOCK_BYTES["logit"]
    expected = np.arange(10 * BLOCK_TOKENS) >= 7 * BLOCK_TOKENS
    assert np.array_equal(memory.marks("c", "logit", 10 * BLOCK_TOKENS), expected)


def test_what_is_older_expires() -> None:
    memory = MemoryLevel(SMALL.groups, 1 << 30)
    for now, name in enumerate("abc"):
        put(memory, name, "logit", 0, random_rows("logit", 1, seed=0), now)
    memory.touch("a", 5)
    memory.expire(used_before=2)
    assert [n for n in "abc" if memory.marks(n, "logit", 1).all()] == ["a", "c"]


def test_records_that_the_disk_does_not_have_stay() -> None:
    memory = MemoryLevel(SMALL.groups, 0)
    memory.put_record("saved", b"1", True, 0)
    memory.put_record("unsaved", b"22", False, 0)
    memory.put_record("last", b"3", True, 0)
    memory.expire(1)
    assert memory.ids() == ["unsaved"] and memory.used_bytes == 2
    memory.mark_saved("unsaved", b"an older one")
    memory.expire(1)
    assert memory.ids() == ["unsaved"]
    record = memory.record("unsaved")
    assert record is not None
    memory.mark_saved("unsaved", record)
    memory.expire(1)
    assert not memory.ids() and not memory.used_bytes


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "record", "truncate", "remove", "expire"]),
        st.sampled_from("abc"),
        st.sampled_from(GROUPS),
        st.integers(0, 150),
        st.integers(1, 80),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(OPERATIONS, st.sampled_from([1 << 30, 4 * BLOCK_BYTES["logit"]]))
def test_bytes_are_counted_and_no_row_is_wrong(
    operations: list[tuple[str, str, str, int, int]], limit_bytes: int
) -> None:
    memory = MemoryLevel(SMALL.groups, limit_bytes)
    model: dict[tuple[str, str], dict[int, tuple[int, int]]] = {}
    for seed, (what, name, group, first, n_tokens) in enumerate(operations):
        if what == "put":
            put(memory, name, group, first, random_rows(group, n_tokens, seed), seed)
            rows = model.setdefault((name, group), {})
            rows.update({first + i: (seed, i) for i in range(n_tokens)})
        elif what == "record":
            memory.put_record(name, b"x" * n_tokens, is_saved=seed % 2 == 0, now=seed)
        elif what == "truncate":
            memory.truncate(name, first, [group])
            rows = model.get((name, group), {})
            model[name, group] = {p: row for p, row in rows.items() if p < first}
        elif what == "remove":
            memory.remove(name)
            model = {key: rows for key, rows in model.items() if key[0] != name}
        else:
            memory.expire(seed - 3)
        assert memory.used_bytes == counted_bytes(memory)
        assert memory.used_bytes == sum(memory.size_bytes(name) for name in "abc")
    for (name, group), rows in model.items():
        arrays, present = memory.get(name, group, range(240), STATES)
        if limit_bytes == 1 << 30 and "expire" not in {what for what, *_ in operations}:
            assert set(np.flatnonzero(present)) == set(rows)
        for position in np.flatnonzero(present):
            seed, i = rows[int(position)]
            expected = packed(SMALL, group, random_rows(group, operations[seed][4], seed))
            assert all(
                array[position].tobytes() == expected[n][i].tobytes() for n, array in arrays.items()
            )


def test_records_that_only_memory_has_are_known() -> None:
    memory = MemoryLevel(SMALL.groups, 1)
    memory.put_record("a", b"1", False, 0)
    memory.put_record("b", b"2", True, 0)
    put(memory, "c", "logit", 0, random_rows("logit", 1, 0))
    assert memory.unsaved() == ["a"] and memory.is_unsaved("a") and not memory.is_unsaved("b")
    content = memory.record("a")
    assert content is not None and not memory.is_unsaved("unknown")
    memory.mark_saved("a", content)
    assert memory.unsaved() == []


def test_rows_that_are_held_are_found_in_runs() -> None:
    memory = MemoryLevel(SMALL.groups, 1 << 30)
    for first in (60, 3):
        put(memory, "c", "logit", first, random_rows("logit", 8, first))
    assert sorted(memory.held("c", 0)) == [
        ("logit", (3, 11)),
        ("logit", (60, 64)),
        ("logit", (64, 68)),
    ]
    assert sorted(memory.held("c", 9)) == [
        ("logit", (9, 11)),
        ("logit", (60, 64)),
        ("logit", (64, 68)),
    ]
    assert memory.held("d", 0) == []

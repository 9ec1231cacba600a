import numpy as np

from sdlms.explorer.cache.found import Found, joined
from sdlms.storage.token_rows import StoredRows


def rows(*values: int) -> dict[str, np.ndarray]:
    return {"rank": np.array(values, np.int32)}


def test_rows_of_the_disk_fill_the_gaps_of_memory() -> None:
    found = Found(rows(5, 0, 7, 0), np.array([True, False, True, False]), "memory", False)
    both = joined(found, StoredRows(rows(6, 0), np.array([True, False]), True))
    assert list(both.arrays["rank"]) == [5, 6, 7, 0]
    assert list(both.present) == [True, True, True, False]
    assert (both.source, both.flaw) == ("disk", True)


def test_where_the_disk_has_none_it_is_no_source() -> None:
    found = Found(rows(5, 0), np.array([True, False]), "memory", False)
    both = joined(found, StoredRows({}, np.array([False]), False))
    assert (both.source, both.flaw) == ("memory", False) and list(both.present) == [True, False]

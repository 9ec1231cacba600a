from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sdlms.explorer.spans import Span, spans_of


@given(st.sets(st.integers(0, 60)))
def test_spans_hold_the_positions_and_do_not_touch(positions: set[int]) -> None:
    spans = spans_of(sorted(positions))
    assert [p for span in spans for p in range(span.first, span.end)] == sorted(positions)
    assert all(a.end < b.first for a, b in pairwise(spans))


def test_no_positions_are_no_spans() -> None:
    assert spans_of([]) == []
    assert spans_of([4]) == [Span(4, 5)]

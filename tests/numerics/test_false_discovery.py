import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from sdlms.numerics.false_discovery import benjamini_hochberg


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_q_agrees_with_scipy(values: list[float]) -> None:
    p = np.array(values)
    found = benjamini_hochberg(p)
    assert found == pytest.approx(false_discovery_control(p))
    assert (found >= p - 1e-15).all()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=50))
def test_equal_p_have_equal_q(ranks: list[int]) -> None:
    p = np.array(ranks) / 20
    found = benjamini_hochberg(p)
    for value in set(p):
        assert len(set(found[p == value])) == 1


def test_the_share_of_false_discoveries_is_bounded() -> None:
    shares = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        p = generator.random(200)
        p[:50] *= 1e-4
        found = np.flatnonzero(benjamini_hochberg(p) < 0.1)
        shares.append(np.mean(found >= 50))
    assert np.mean(shares) <= 0.1


def test_no_test_has_no_q() -> None:
    assert benjamini_hochberg(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("p", [[0.5, np.nan], [1.5], [-0.1], [[0.5]]])
def test_what_is_no_p_is_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        benjamini_hochberg(np.array(p))

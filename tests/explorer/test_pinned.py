"""What a row says of a token is the same wherever it is said."""

import numpy as np

from sdlms.explorer.pinned import Pinned, agreeing

LIKELIEST = np.array([[7, 3, 9], [1, 2, 3]])
SHARES = np.array([[0.5, 0.2, 0.1], [0.4, 0.4, 0.05]], np.float32)


def known(ids: list[list[int]], shares: list[list[float]], ranks: list[list[int]]) -> Pinned:
    measured = Pinned(np.log(np.array(shares, np.float32)), np.array(ranks, np.int32))
    found = agreeing(LIKELIEST, SHARES, np.array(ids), measured)
    return found._replace(log_probability=np.exp(found.log_probability))


def test_one_of_the_likeliest_has_its_place_and_probability() -> None:
    found = known([[9, 7], [3, 2]], [[0.3, 0.4], [0.06, 0.3]], [[2, 1], [5, 1]])
    np.testing.assert_allclose(found.log_probability, [[0.1, 0.5], [0.05, 0.4]], rtol=1e-6)
    assert found.rank.tolist() == [[3, 1], [3, 2]]


def test_any_other_token_comes_behind_them() -> None:
    found = known([[5], [8]], [[0.3], [0.01]], [[2], [40]])
    np.testing.assert_allclose(found.log_probability, [[0.1], [0.01]], rtol=1e-6)
    # As probable as the last of them, and so of its rank.
    assert found.rank.tolist() == [[3], [40]]


def test_what_is_no_number_stays() -> None:
    found = known([[7], [8]], [[np.nan], [np.nan]], [[0], [0]])
    assert np.isnan(found.log_probability).all()
    assert found.rank.tolist() == [[0], [0]]

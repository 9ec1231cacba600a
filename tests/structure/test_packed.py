import json

import numpy as np
import pytest

from sdlms.structure.packed import packed, unpacked


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 7, -1, 2**31 - 1]),
        np.array([0.1, -1e300, np.inf, 5e-324]),
        np.zeros(0, dtype=np.int64),
        np.zeros(0),
    ],
)
def test_the_same_array_comes_back(values: np.ndarray) -> None:
    found = unpacked(json.loads(json.dumps(packed(values))))
    assert found.dtype == values.dtype
    assert (found == values).all()
    assert found.flags.writeable


def test_it_is_short() -> None:
    weights = np.random.default_rng(0).random(1000)
    assert len(packed(weights)) < 0.6 * len(json.dumps(weights.tolist()))

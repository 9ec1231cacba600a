import dataclasses

import pytest

from sdlms.explorer.cache.limits import CacheLimits


def test_the_limits_are_those_of_the_documentation() -> None:
    assert CacheLimits() == CacheLimits(10**9, 10**10, 3_600, 7 * 24 * 3_600)


def test_limits_stay_as_they_are() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CacheLimits().disk_bytes = 1  # type: ignore[misc]

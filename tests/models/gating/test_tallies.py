"""Kept fractions are means over tokens."""

import math

import pytest
import torch

from sdlms.models.gating.tallies import Tally


def test_the_mean_is_over_tokens() -> None:
    tally = Tally()
    assert math.isnan(tally.mean())
    tally.add(0.5, 1)
    tally.add(torch.tensor(2.5), 4)
    tally.add(0.75, 0)  # another matrix of tokens that are counted already
    assert tally.mean() == pytest.approx(3.75 / 5)
    tally.reset()
    assert math.isnan(tally.mean())

"""Users hear what is doubtful of their rules, and nothing of others."""

import numpy as np
import pytest

from sdlms.dynamic.doubts import continued_fraction, doubts_of
from sdlms.dynamic.windows import Drawn, Windows, WindowSettings
from sdlms.models.gating.rules import RULES
from tests.dynamic.random_windows import random_windows
from tests.dynamic.texts import drawn_text

BLOCKS = {3: np.arange(4), 1: np.arange(4)}


def drawn(seed: int = 0) -> Drawn:
    windows = random_windows(seed=seed)
    return Drawn(windows.ids, windows)


def windows_of(document: list[list[int]]) -> Windows:
    """Windows whose scored tokens are of these documents; -1 is a special token."""
    numbers = np.array(document)
    return random_windows()._replace(document=numbers, scored=numbers >= 0)


def test_rules_that_nobody_doubts_are_not_spoken_of() -> None:
    sound = [rule for rule in RULES if rule not in ("pre-abs", "sequence", "blocks")]
    assert not list(doubts_of(sound, {0: drawn()}, None))


def test_a_rule_with_a_warning_gives_it() -> None:
    assert list(doubts_of(["post-abs", "pre-abs"], {0: drawn()}, None)) == [
        RULES["pre-abs"].warning
    ]


@pytest.mark.parametrize("rule", ["blocks", "blocks-random"])
def test_rules_that_gate_some_layers_say_which(rule: str) -> None:
    (doubt,) = doubts_of(["post-norm", rule], {0: drawn()}, BLOCKS)
    assert doubt.startswith(f"rule {rule} gates layers 1, 3 alone: ")


def test_sequences_are_told_how_much_goes_on_in_the_mean_over_seeds() -> None:
    seeds = {
        0: Drawn(drawn().calibration, windows_of([[0, 0, 1, 1]])),
        1: Drawn(drawn().calibration, windows_of([[0, 0, 0, 0], [1, 1, 1, 2]])),
    }
    (doubt,) = doubts_of(["sequence"], seeds, None)
    assert "69% of the scored tokens belong to the document" in doubt  # of 1/2 and 7/8
    assert "context" in doubt and "\n" not in doubt


def test_by_hand() -> None:
    assert continued_fraction(windows_of([[5, 5, 5, 5]])) == 1
    assert continued_fraction(windows_of([[5, 5, 6, 6], [6, 6, -1, 7]])) == 4 / 7
    # Behind a special token a document begins.
    assert continued_fraction(windows_of([[-1, 5, 5, 5], [5, 5, -1, -1]])) == 2 / 5


def test_of_real_text_it_is_what_a_loop_counts() -> None:
    settings = WindowSettings(window=64, stride=32, max_tokens=600, calibration_tokens=0)
    windows = drawn_text(settings).windows
    n_continued = 0
    for document, scored in zip(windows.document, windows.scored, strict=True):
        for number, counted in zip(document, scored, strict=True):
            n_continued += bool(counted and number == document[0])
    assert continued_fraction(windows) == n_continued / windows.scored.sum()
    assert 0 < n_continued < windows.scored.sum()

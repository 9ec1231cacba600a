import json
from typing import Any

import numpy as np
import pytest

from sdlms.dynamic.gains import summary_of


def timings(keep: float, slowness: list[float], kept: float, n_tokens: int = 4) -> dict[str, Any]:
    """One entry per round; all tokens of a round take as long."""
    return {
        "keep": keep,
        "prefill": [10 * slow for slow in slowness],
        "decode": [[slow] * n_tokens for slow in slowness],
        "mlp": [[slow / 10] * 2 for slow in slowness],
        "kept": [kept] * len(slowness),
    }


# A machine that is three times as slow in the second round, and five times in the third.
MEASURED = {
    "prompt_tokens": 20,
    "configurations": {
        "dense": timings(1.0, [1.2, 3.6, 6.0], 1.0),
        "forced": timings(1.0, [1.0, 3.0, 5.0], 1.0),
        "0.3": timings(0.3, [0.8, 2.4, 4.0], 0.31),
    },
}


@pytest.mark.parametrize("part", ["decode", "prefill", "mlp"])
def test_ratios_are_taken_round_by_round(part: str) -> None:
    found = {name: getattr(gain, part) for name, gain in summary_of(MEASURED).items()}
    assert found["0.3"].speedup == pytest.approx(1.5)
    assert found["0.3"].sparsity_gain == pytest.approx(1.25)
    assert {round(gain.kernel_gain, 9) for gain in found.values()} == {1.2}
    assert found["dense"].speedup == found["forced"].sparsity_gain == 1
    assert found["forced"].speedup == pytest.approx(1.2)


def test_a_bad_round_changes_no_median() -> None:
    dense = timings(1.0, [1.0, 1.0, 1.0], 1.0)
    spoiled = timings(0.3, [0.5, 0.5, 50.0], 0.3)
    measured = {"prompt_tokens": 1, "configurations": {"dense": dense, "forced": dense}}
    measured["configurations"]["0.3"] = spoiled
    found = summary_of(measured)["0.3"].decode
    assert found.speedup == found.sparsity_gain == 2
    assert found.tokens_per_sec == 2
    assert found.tokens_per_sec_p10 < 0.03


def test_tokens_per_second() -> None:
    found = summary_of(MEASURED)["forced"]
    assert found.decode.tokens_per_sec == pytest.approx(1 / 3)
    assert found.prefill.tokens_per_sec == pytest.approx(20 / 30)
    assert found.mlp.tokens_per_sec == pytest.approx(10 / 3)
    assert found.kept_fraction == 1
    assert summary_of(MEASURED)["0.3"].kept_fraction == pytest.approx(0.31)


def test_nine_tokens_in_ten_are_as_fast_as_p10() -> None:
    seconds = np.random.default_rng(0).uniform(0.1, 1.0, (5, 200))
    one = {**timings(1.0, [1.0] * 5, 1.0), "decode": seconds.tolist()}
    found = summary_of({"prompt_tokens": 1, "configurations": {"dense": one, "forced": one}})
    decode = found["dense"].decode
    assert np.mean(1 / seconds >= decode.tokens_per_sec_p10) == pytest.approx(0.9, abs=0.002)
    assert np.mean(1 / seconds >= decode.tokens_per_sec) == pytest.approx(0.5, abs=0.002)


def test_json_changes_nothing() -> None:
    assert summary_of(json.loads(json.dumps(MEASURED))) == summary_of(MEASURED)

"""What the measured times mean: tokens per second, and gains as ratios taken round by round."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DENSE, FORCED = "dense", "forced"
"""The model as it is, and sparse execution that keeps everything."""


@dataclass(frozen=True)
class Gain:
    """How fast one configuration is, in decoding, in prefill or in the MLPs alone.

    Attributes:
        tokens_per_sec: from the median time of a token; of the MLPs, as if there were nothing else.
        tokens_per_sec_p10: nine tokens in ten are at least as fast.
        speedup: dense over own time, median of rounds.
        kernel_gain: dense over forced time, median of rounds; the same for all configurations.
        sparsity_gain: forced over own time, median of rounds.
    """

    tokens_per_sec: float
    tokens_per_sec_p10: float
    speedup: float
    kernel_gain: float
    sparsity_gain: float


@dataclass(frozen=True)
class SpeedSummary:
    """One configuration of `measure_speed`.

    Attributes:
        kept_fraction: reached in decoding, mean over rounds.
        decode: one token after another.
        prefill: the prompt at once.
        mlp: one token in the MLPs alone.
    """

    kept_fraction: float
    decode: Gain
    prefill: Gain
    mlp: Gain


def summary_of(measured: Mapping[str, Any]) -> dict[str, SpeedSummary]:
    """Gains of each configuration.

    Args:
        measured: what `measure_speed` returned, or JSON gave back of it.

    Returns:
        By name: `dense`, `forced`, and each kept fraction below 1 as `f"{keep:g}"`.
    """
    decode, prefill, mlp = (_gains(measured, part) for part in ("decode", "prefill", "mlp"))
    return {
        name: SpeedSummary(float(np.mean(timings["kept"])), decode[name], prefill[name], mlp[name])
        for name, timings in measured["configurations"].items()
    }


def token_seconds(measured: Mapping[str, Any], part: str) -> dict[str, NDArray[np.float64]]:
    """Seconds per token `[round, measurement]` of each configuration.

    Args:
        measured: as `summary_of`.
        part: `decode`, `prefill` or `mlp`.
    """
    n_tokens = int(measured["prompt_tokens"]) if part == "prefill" else 1
    return {
        name: np.asarray(timings[part], dtype=np.float64).reshape(len(timings[part]), -1) / n_tokens
        for name, timings in measured["configurations"].items()
    }


def _gains(measured: Mapping[str, Any], part: str) -> dict[str, Gain]:
    """Gains of one part of the work, by configuration."""
    seconds = token_seconds(measured, part)
    rounds = {name: np.median(times, axis=1) for name, times in seconds.items()}
    kernel_gain = _median_ratio(rounds[DENSE], rounds[FORCED])
    return {
        name: Gain(
            tokens_per_sec=float(1 / np.median(times)),
            tokens_per_sec_p10=float(1 / np.quantile(times, 0.9)),
            speedup=_median_ratio(rounds[DENSE], rounds[name]),
            kernel_gain=kernel_gain,
            sparsity_gain=_median_ratio(rounds[FORCED], rounds[name]),
        )
        for name, times in seconds.items()
    }


def _median_ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    """Median over rounds of one time over another."""
    return float(np.median(above / below))

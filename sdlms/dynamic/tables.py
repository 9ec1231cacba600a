"""The columns of dynamic_k.csv and critical.csv, and the cells of one row."""

from typing import NamedTuple

from sdlms.dynamic.critical import Critical
from sdlms.dynamic.estimates import Estimate, Quality
from sdlms.dynamic.gains import Gain
from sdlms.dynamic.limits import Savings
from sdlms.storage.tables import Cell

Row = dict[str, Cell]

KEYS = ["rule", "k", "task", "phase", "backend", "seed"]
SIZES = ["n_tokens", "n_documents"]
QUALITIES = ("perplexity", "quality_delta", "perplexity_ratio")
ENDINGS = ("", "_std", "_low", "_high")
KEPT = ["kept_fraction", "kept_fraction_std"]
SAVINGS = [
    *("bytes_reduction", "bytes_reduction_mlp", "flops_reduction", "flops_reduction_mlp"),
    *("limit", "limit_mlp"),
]
TIMED = [
    *("tokens_per_sec", "tokens_per_sec_std", "tokens_per_sec_p10", "dense_tokens_per_sec"),
    *("speedup", "speedup_std", "kernel_gain", "sparsity_gain", "limit_share"),
    *("speedup_mlp", "kernel_gain_mlp", "sparsity_gain_mlp", "limit_share_mlp"),
]
COLUMNS = [
    *KEYS,
    *SIZES,
    *(name + ending for name in QUALITIES for ending in ENDINGS),
    *KEPT,
    *SAVINGS,
    *TIMED,
    "reason",
]
CRITICAL_COLUMNS = [
    *("rule", "scope", "layer", "task", "seed"),
    *("critical_sparsity", "critical_sparsity_low", "critical_sparsity_high"),
    *("critical_sparsity_std", "critical_sparsity_grid", "bytes_reduction"),
    *("n_tokens", "n_documents", "reason"),
]


class Spread(NamedTuple):
    """A number over seeds.

    Attributes:
        mean: over seeds.
        std: of one degree of freedom less; None for one seed.
    """

    mean: float
    std: float | None = None


def quality_cells(quality: Quality | None) -> Row:
    """Sizes, perplexities and the reason; empty where quality was not measured."""
    if quality is None:
        names = [name + ending for name in QUALITIES for ending in ENDINGS]
        return {**dict.fromkeys([*SIZES, *names]), "reason": ""}
    estimates = dict(
        zip(QUALITIES, (quality.perplexity, quality.delta, quality.ratio), strict=True)
    )
    row: Row = {"n_tokens": quality.n_tokens, "n_documents": quality.n_documents}
    for name, estimate in estimates.items():
        row |= _estimate_cells(name, estimate)
    return {**row, "reason": quality.reason}


def _estimate_cells(name: str, estimate: Estimate) -> Row:
    """A number with its spread over seeds and its interval over documents."""
    values = (estimate.value, estimate.std, estimate.low, estimate.high)
    return {name + ending: value for ending, value in zip(ENDINGS, values, strict=True)}


def savings_cells(kept: Spread, savings: Savings) -> Row:
    """What was kept, and what that spares."""
    return {
        "kept_fraction": kept.mean,
        "kept_fraction_std": kept.std,
        "bytes_reduction": savings.bytes_reduction,
        "bytes_reduction_mlp": savings.bytes_reduction_mlp,
        "flops_reduction": savings.flops_reduction,
        "flops_reduction_mlp": savings.flops_reduction_mlp,
        "limit": savings.limit,
        "limit_mlp": savings.limit_mlp,
    }


class Speed(NamedTuple):
    """One configuration in one phase, the mean over seeds where there are several.

    Attributes:
        own: of the whole model.
        mlp: of its MLPs alone; None where they were not timed alone (prefill).
        dense_tokens_per_sec: of the model as it is.
        tokens_per_sec_std: over seeds; None for one.
        speedup_std: the same.
    """

    own: Gain
    mlp: Gain | None
    dense_tokens_per_sec: float
    tokens_per_sec_std: float | None
    speedup_std: float | None


def speed_cells(speed: Speed | None, savings: Savings) -> Row:
    """Measured times, and how much of the limit skipping work has reached; empty where none."""
    if speed is None:
        return dict.fromkeys(TIMED)
    own, mlp = speed.own, speed.mlp
    skips = savings.bytes_reduction > 0
    return {
        "tokens_per_sec": own.tokens_per_sec,
        "tokens_per_sec_std": speed.tokens_per_sec_std,
        "tokens_per_sec_p10": own.tokens_per_sec_p10,
        "dense_tokens_per_sec": speed.dense_tokens_per_sec,
        "speedup": own.speedup,
        "speedup_std": speed.speedup_std,
        "kernel_gain": own.kernel_gain,
        "sparsity_gain": own.sparsity_gain,
        "limit_share": own.sparsity_gain / savings.limit if skips else None,
        "speedup_mlp": mlp.speedup if mlp else None,
        "kernel_gain_mlp": mlp.kernel_gain if mlp else None,
        "sparsity_gain_mlp": mlp.sparsity_gain if mlp else None,
        "limit_share_mlp": mlp.sparsity_gain / savings.limit_mlp if mlp and skips else None,
    }


def critical_cells(critical: Critical, bytes_reduction: float) -> Row:
    """The largest sparsity that costs 1 %, and the bytes of the whole model that it spares."""
    return {
        "critical_sparsity": critical.value,
        "critical_sparsity_low": critical.low,
        "critical_sparsity_high": critical.high,
        "critical_sparsity_std": critical.std,
        "critical_sparsity_grid": critical.grid,
        "bytes_reduction": bytes_reduction,
        "reason": critical.reason,
    }

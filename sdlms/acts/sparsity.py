"""From `counts.h5` to the rows of `sparsity.csv`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdlms.acts.statistics import Rule
from sdlms.numerics.sparsity import token_mean
from sdlms.storage.activations import Key, dataset_name
from sdlms.storage.counts import read_counts, task_counts
from sdlms.storage.tables import Cell

RATE_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = [
    "layer",
    "site",
    "task",
    "n_documents",
    "n_tokens",
    "n_units",
    "activation_fraction",
    "activation_fraction_se",
    "participation_ratio",
    "participation_ratio_se",
    "threshold_rule",
    "firing_rate",
    "firing_rate_se",
    *(f"firing_rate_q{round(100 * q):02d}" for q in RATE_QUANTILES),
    "dead_fraction",
    "always_on_fraction",
]


def sparsity_rows(
    path: Path, rules: dict[Key, Rule], tasks: list[str]
) -> Iterator[dict[str, Cell]]:
    """One row per layer, site and task; statistics over mask-1 tokens, errors over documents.

    Args:
        path: a complete `counts.h5`.
        rules: how each site and layer was measured.
        tasks: task names, in the order of the rows.

    Yields:
        Rows with `COLUMNS`. The activation fraction is NaN for residual-like sites, whose zero
        means nothing; every figure is NaN for a task without mask-1 tokens.
    """
    names = np.char.decode(read_counts(path, "/documents/task").astype(bytes), "utf-8")
    members = np.array([names == task for task in tasks])
    n_tokens = read_counts(path, "/documents/n_tokens").astype(np.int64)
    for key, rule in sorted(rules.items(), key=lambda item: (item[0][1], item[0][0])):
        counts, fired = task_counts(path, key, members)
        for index, task in enumerate(tasks):
            member = members[index]
            yield {
                "layer": key[1],
                "site": key[0],
                "task": task,
                "n_documents": int((n_tokens[member] > 0).sum()),
                "n_tokens": int(n_tokens[member].sum()),
                "n_units": counts.shape[1],
                **_means(path, key, fired, member, n_tokens[member], counts.shape[1]),
                "threshold_rule": rule.name,
                **_rates(counts[index], int(n_tokens[member].sum())),
            }


def _means(
    path: Path,
    key: Key,
    fired: NDArray[np.int64],
    member: NDArray[np.bool_],
    n_tokens: NDArray[np.int64],
    n_units: int,
) -> dict[str, Cell]:
    """Activation fraction, participation ratio and firing rate with their standard errors."""
    name = dataset_name(key)
    positive = read_counts(path, f"{name}/n_positive")[member].astype(np.float64) / n_units
    if key[0] != "mlp_act":
        positive = np.full_like(positive, np.nan)
    ratios = read_counts(path, f"{name}/participation_ratio")[member].astype(np.float64)
    found: dict[str, Cell] = {}
    for column, sums in (
        ("activation_fraction", positive),
        ("participation_ratio", ratios),
        ("firing_rate", fired[member] / n_units),
    ):
        found[column], found[f"{column}_se"] = token_mean(sums, n_tokens)
    return found


def _rates(counts: NDArray[np.int64], n_tokens: int) -> dict[str, Cell]:
    """How firing rates are spread over the units of one task."""
    columns = [f"firing_rate_q{round(100 * q):02d}" for q in RATE_QUANTILES]
    if n_tokens == 0:
        nan = float("nan")
        return dict.fromkeys([*columns, "dead_fraction", "always_on_fraction"], nan)
    quantiles = np.quantile(counts / n_tokens, RATE_QUANTILES)
    return {
        **{column: float(value) for column, value in zip(columns, quantiles, strict=True)},
        "dead_fraction": float((counts == 0).mean()),
        "always_on_fraction": float((counts == n_tokens).mean()),
    }

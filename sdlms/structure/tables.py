"""The tables of an si-modularity run: their columns, and their rows from what was worked out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdlms.structure.firing import ALL
from sdlms.structure.threshold_rule import rule_named

Cell = str | int | float | None
Row = dict[str, Cell]

MEAN = "mean"  # the rows of controls.csv that are of all layers
FEWEST_DOCUMENTS = 200
FEWEST_TASKS = 6
# Where mean lengths differ more between tasks, shuffled tasks mix long and short documents, and
# adjusted SI comes out too low: by 0.0024 at a ratio of 2.5, 0.004 at 4, 0.015 at 16.
MOST_UNEQUAL = 2.5
# A quantile rule whose rate is off by more than this share of it does not do what it says.
MOST_MISSED = 0.2
# What the columns of a control are called.
FRESH_NAMES = {"reinit": "reinit", "reinit-matched": "reinit_matched"}
CONTROL_NAMES = FRESH_NAMES | {"permute-tokens": "permuted"}


def with_interval(name: str) -> list[str]:
    """A column and the ends of its 95 % interval."""
    return [name, f"{name}_low", f"{name}_high"]


KEYS = ["layer", "task", "SI", "Q", "n_communities", "threshold", "control"]
SIZES = ["documents", "tokens", "units", "units_dead", "units_rare", "units_scored"]
SPECIALIZATION = [
    *("firing_rate", "SI_low", "SI_high", "SI_plain", "SI_chance"),
    *with_interval("SI_adjusted"),
    *("significant_fraction", "mutual_information_nats", "split_half_reliability"),
]
CONTROLLED = [f"SI_adjusted_{name}" for name in CONTROL_NAMES.values()]
CONTROLS = [
    *chain.from_iterable(map(with_interval, CONTROLLED)),
    *(f"significant_fraction_{name}" for name in CONTROL_NAMES.values()),
    *with_interval("token_identity_fraction"),
]
GRAPH = [
    *("Q_best", "Q_plain", "Q_null_mean", "Q_null_sd", "z_Q"),
    *("Q_rewired_mean", "Q_rewired_sd", "z_Q_rewired"),
    *("n_edges", "n_edges_matched", "edge_density"),
    *("n_significant_edges", "n_significant_null_mean", "seed_agreement"),
]
POOLED = [
    *("Q_pooled", "Q_pooled_null_mean", "Q_pooled_null_sd", "n_edges_pooled"),
    *("n_significant_edges_pooled", "n_significant_pooled_null_mean", "n_communities_pooled"),
]
REASONS = ["SI_reason", "Q_reason", "warning"]
COLUMNS = [*KEYS, *SIZES, *SPECIALIZATION, *CONTROLS, *GRAPH, *POOLED, *REASONS]

UNIT_COLUMNS = [
    *("layer", "unit", "threshold", "fired", "firing_rate", "preferred_task"),
    *("SI", "SI_plain", "SI_chance", "SI_adjusted", "z", "p", "q"),
    *("mutual_information_nats", "dead", "rare", "community"),
]
COMMUNITY_COLUMNS = ["layer", "unit", "community", "preferred_task"]
CONTROL_COLUMNS = [
    *("layer", "control", *with_interval("SI_adjusted")),
    *("significant_fraction", "firing_rate", "units_scored"),
]
RESOLUTION_COLUMNS = ["layer", "task", "resolution", "Q", "n_communities", "agreement"]
CURVE_COLUMNS = [
    *("layer", "threshold", "firing_rate", "units_scored", "SI", "SI_plain"),
    *with_interval("SI_adjusted"),
    "significant_fraction",
]


def warnings_of(
    task_documents: Mapping[str, int], task_tokens: Mapping[str, int]
) -> dict[str, str]:
    """What is doubtful of each row, `all` among them; nothing where a task has enough documents.

    Args:
        task_documents: documents of each task, none of which is empty.
        task_tokens: tokens of each.
    """
    few = {
        task: f"fewer than {FEWEST_DOCUMENTS} documents ({n})"
        for task, n in task_documents.items()
        if n < FEWEST_DOCUMENTS
    }
    of_all = []
    if (n_tasks := len(task_documents)) < FEWEST_TASKS:
        of_all.append(f"fewer than {FEWEST_TASKS} tasks ({n_tasks})")
    if few:
        of_all.append(f"tasks with fewer than {FEWEST_DOCUMENTS} documents: {', '.join(few)}")
    lengths = {task: task_tokens[task] / n for task, n in task_documents.items()}
    longest, shortest = max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)
    if (unequal := lengths[longest] / lengths[shortest]) > MOST_UNEQUAL:
        of_all.append(
            f"documents of {longest} are {unequal:.1f} times as long as those of {shortest}: "
            "adjusted SI is somewhat too low"
        )
    return {ALL: "; ".join(of_all), **few}


def rate_warning(threshold: str, rates: Sequence[float]) -> str:
    """That a quantile rule misses its rate, where it does by more than a fifth of it.

    Args:
        threshold: the rule's name.
        rates: shares of tokens on which units of layers fire.

    Returns:
        Empty where no rate is off, and for other rules.
    """
    rule = rule_named(threshold)
    meant = 1 - rule.value
    off = [rate for rate in rates if abs(rate - meant) > MOST_MISSED * meant]
    if rule.kind != "quantile" or not off:
        return ""
    found = "-".join(f"{100 * rate:.2g}" for rate in dict.fromkeys((min(off), max(off))))
    return (
        f"units fire on {found} % of tokens, not on {100 * meant:.2g} %: many tokens share the "
        "value of a unit's quantile (compare with reinit-matched)"
    )


def layer_rows(
    keys: Mapping[str, Cell],
    specialization: Mapping[str, Mapping[str, Cell]],
    graph: Mapping[str, Mapping[str, Cell]],
    controls: Mapping[str, Mapping[str, Mapping[str, Cell]]],
    identity: Mapping[str, Mapping[str, Cell]],
) -> Iterator[Row]:
    """Rows of `si_modularity.csv`: one of all tasks, then one of each.

    Args:
        keys: what all rows of a layer share: layer, threshold (the rule's name), control.
        specialization: columns of each row, by task or `all`.
        graph: the same of the graphs; empty where none were made.
        controls: `control -> task -> columns` of specialization; those of permuted tokens are
            not taken from here.
        identity: `task -> columns` of what permuted tokens keep; empty without them.
    """
    documents, tokens = (
        {task: int(str(row[name])) for task, row in specialization.items() if task != ALL}
        for name in ("documents", "tokens")
    )
    warnings = warnings_of(documents, tokens)
    missed = rate_warning(str(keys["threshold"]), [float(specialization[ALL]["firing_rate"] or 0)])
    warnings[ALL] = "; ".join(filter(None, [warnings[ALL], missed]))
    for task, found in specialization.items():
        row: Row = dict.fromkeys(COLUMNS)
        row |= {**keys, "task": task, **found, **graph.get(task, {}), **identity.get(task, {})}
        row["warning"] = "; ".join(filter(None, [warnings.get(task), str(row["warning"] or "")]))
        yield row | _fresh({name: own[task] for name, own in controls.items()})


def _fresh(controls: Mapping[str, Mapping[str, Cell]]) -> Row:
    """What fresh weights say of one row: of those of their units that prefer its task."""
    cells: Row = {}
    for control, name in FRESH_NAMES.items():
        if control in controls:
            for column in with_interval("SI_adjusted"):
                cells[column.replace("adjusted", f"adjusted_{name}")] = controls[control][column]
            share = controls[control]["significant_fraction"]
            cells[f"significant_fraction_{name}"] = share
    return cells


def unit_rows(
    layer: int,
    units: Mapping[str, NDArray[Any]],
    thresholds: NDArray[np.float32],
    communities: Mapping[int, int],
    task_names: Sequence[str],
) -> Iterator[Row]:
    """Rows of `units.csv`.

    Args:
        layer: of the model.
        units: `[unit]` columns.
        thresholds: `[unit]`.
        communities: of those units that are in the graph.
        task_names: that `preferred_task` counts.
    """
    plain = [name for name in UNIT_COLUMNS if name in units and name != "preferred_task"]
    for unit, preferred in enumerate(units["preferred_task"].tolist()):
        row: Row = {name: units[name][unit].item() for name in plain}
        row |= {"dead": int(row["dead"] or 0), "rare": int(row["rare"] or 0)}
        yield row | {
            "layer": layer,
            "unit": unit,
            "threshold": float(thresholds[unit]),
            "preferred_task": task_names[preferred] if preferred >= 0 else "",
            "community": communities.get(unit),
        }


def community_rows(
    layer: int,
    communities: Mapping[int, int],
    preferred: NDArray[np.int64],
    task_names: Sequence[str],
) -> Iterator[Row]:
    """Rows of `communities.csv`, community after community."""
    for unit, community in sorted(communities.items(), key=lambda pair: pair[::-1]):
        task = task_names[preferred[unit]] if preferred[unit] >= 0 else ""
        yield {"layer": layer, "unit": unit, "community": community, "preferred_task": task}


def curve_row(layer: int, threshold: str, found: Mapping[str, Cell], firing_rate: float) -> Row:
    """A row of `thresholds.csv`: the layer as another threshold shows it."""
    row: Row = {name: found[name] for name in CURVE_COLUMNS if name in found}
    return row | {"layer": layer, "threshold": threshold, "firing_rate": firing_rate}

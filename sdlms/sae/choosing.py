"""Apply the rule of selection to measured members, layer by layer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sdlms.progress import LOGGER
from sdlms.sae.measuring import Row
from sdlms.sae.selection import Point, Rule, front_of, ranked


@dataclass(frozen=True)
class Choice:
    """What was taken at one layer.

    Attributes:
        layer: from 0.
        member: that was taken: of the chosen coefficient, the one with the first seed.
        reason: why, in a few words.
        front: each coefficient's L0, FVU and cross-entropy recovered, its seeds averaged, whether
            it was given up early, whether no other beats it in both L0 and FVU, and whether it does
            nothing (`Point.is_collapsed`).
    """

    layer: int
    member: str
    reason: str
    front: list[dict[str, Any]]


def choose(rows: Sequence[Row], rule: Rule) -> list[Choice]:
    """Take one member of each layer, and mark its row as selected.

    Coefficients that were given up early are never taken. They have no say either, but for the
    knee: of a front without its ends there is none, so they stand in it where they were.

    Args:
        rows: of `sae.csv`.
        rule: as it was asked for.
    """
    layers = sorted({int(str(row["layer"])) for row in rows})
    return [
        _choose([row for row in rows if row["layer"] == layer], layer, rule) for layer in layers
    ]


def _choose(rows: Sequence[Row], layer: int, rule: Rule) -> Choice:
    """One layer's choice."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["coefficient"], []).append(row)
    finished = [group for group in groups.values() if not _is_screened(group)]
    asked = list(groups.values()) if rule.name == "knee" else finished
    order, reason = ranked(rule, [_point(group) for group in asked])
    first = next(i for i in order if not _is_screened(asked[i]))
    if first != order[0]:
        reason = f"the next by {rule}, for the first was given up early"
    if n_screened := len(groups) - len(finished):
        reason += f"; {n_screened} of {len(groups)} coefficients were given up early"
    taken = asked[first][0]
    taken["selected"] = 1
    _warn_of_baseline(taken)
    return Choice(layer, str(taken["member"]), reason, _front(groups))


def _warn_of_baseline(taken: Row) -> None:
    """Say so where principal components do what latents should do better."""
    l0, fvu, baseline = (float(str(taken[name])) for name in ("l0", "fvu", "pca_fvu"))
    if fvu >= baseline:
        LOGGER.warning(
            f"layer {taken['layer']}: {taken['pca_components']} principal components leave less "
            f"unexplained (FVU {baseline:.3f}) than {l0:.1f} latents of {taken['member']} "
            f"({fvu:.3f}). Ask for fewer active latents, or train longer."
        )


def _front(groups: Mapping[Any, Sequence[Row]]) -> list[dict[str, Any]]:
    """Where each coefficient lies, for `meta.jsonl`."""
    points = {coefficient: _point(group) for coefficient, group in groups.items()}
    finished = [
        coefficient
        for coefficient, point in points.items()
        if not _is_screened(groups[coefficient]) and not point.is_collapsed
    ]
    on_front = [finished[i] for i in front_of([points[coefficient] for coefficient in finished])]
    return [
        {
            "coefficient": coefficient,
            "l0": point.l0,
            "fvu": point.fvu,
            "ce_recovered": None if math.isnan(point.ce) else point.ce,
            "screened": _is_screened(groups[coefficient]),
            "on_front": coefficient in on_front,
            "collapsed": point.is_collapsed,
        }
        for coefficient, point in points.items()
    ]


def _is_screened(group: Sequence[Row]) -> bool:
    """Whether a coefficient was given up early."""
    return any(row["screened"] for row in group)


def _point(group: Sequence[Row]) -> Point:
    """A coefficient's place, its seeds averaged."""
    l0, fvu, ce = (
        fmean(float(str(row[name])) for row in group) for name in ("l0", "fvu", "ce_recovered")
    )
    return Point(l0, fvu, ce)

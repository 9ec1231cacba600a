"""What a run of dynamic-k says: the rows of its tables, from the parts that were measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import nan
from typing import Literal, NamedTuple

import numpy as np

from sdlms.dynamic.critical import critical_of
from sdlms.dynamic.estimates import Quality, quality_of
from sdlms.dynamic.gains import DENSE, FORCED, Gain, SpeedSummary, summary_of
from sdlms.dynamic.limits import Savings, decode_savings, prefill_savings
from sdlms.dynamic.losses import losses_of_record
from sdlms.dynamic.resampling import Resampled, resampled_together
from sdlms.dynamic.study import DECODED, Study
from sdlms.dynamic.tables import (
    Row,
    Speed,
    Spread,
    critical_cells,
    quality_cells,
    savings_cells,
    speed_cells,
)
from sdlms.models.gating.costs import ModelCosts
from sdlms.runs.parts import Part

ALL, MEAN, MASKS = "all", "mean", "masks"
Phase = Literal["decode", "prefill"]
PHASES: tuple[Phase, ...] = ("decode", "prefill")


class Point(NamedTuple):
    """A measured model.

    Attributes:
        rule: its name.
        keep: nominal kept fraction.
        layer: the only one that is gated; None for all that the rule gates.
    """

    rule: str
    keep: float
    layer: int | None = None


class Group(NamedTuple):
    """One seed, or all of them.

    Attributes:
        name: the seed, or `mean`.
        seeds: those.
    """

    name: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Results:
    """A finished study.

    Attributes:
        study: whose parts are there.
        costs: of the model.
        task_names: in the order of the windows.
        window: tokens of one.
        seed: of the draws of documents.
        has_quality: whether perplexity was measured.
        has_speed: whether times were.
    """

    study: Study
    costs: ModelCosts
    task_names: list[str]
    window: int
    seed: int
    has_quality: bool
    has_speed: bool

    def rows(self) -> Iterator[Row]:
        """Of `dynamic_k.csv`: rule by rule, kept fraction by kept fraction."""
        settings = self.study.settings
        for rule in settings.rules:
            for keep in settings.keeps:
                point = Point(rule, keep)
                if self.has_quality:
                    yield from self._quality_rows(point)
                if self.has_speed:
                    yield from self._speed_rows(point)

    def critical_rows(self) -> Iterator[Row]:
        """Of `critical.csv`: of the model, its tasks, and single layers."""
        for rule in self.study.settings.rules:
            for group in self._groups:
                yield self._critical_row(rule, group, None, None)
                if len(self.task_names) > 1:
                    for task in range(len(self.task_names)):
                        yield self._critical_row(rule, group, None, task)
                for layer in self.study.single_layers(rule):
                    yield self._critical_row(rule, group, layer, None)

    @property
    def _groups(self) -> list[Group]:
        """Every seed alone, then all of them."""
        seeds = self.study.settings.seeds
        return [*(Group(str(seed), (seed,)) for seed in seeds), Group(MEAN, seeds)]

    def _quality_rows(self, point: Point) -> Iterator[Row]:
        """Each seed and their mean, each task and all of them."""
        forced = self.study.settings.force_at_one
        at_one = self.study.settings.backend if forced else DENSE
        backend = at_one if point.keep == 1 else MASKS
        for group in self._groups:
            for task in [*range(len(self.task_names)), None]:
                kept = self._kept(point, group, task)
                savings = self._savings(point, kept.mean, "decode")
                keys = self._keys(point, "quality", backend, group)
                yield {
                    **keys,
                    "task": ALL if task is None else self.task_names[task],
                    **quality_cells(self._quality(point, group, task)),
                    **savings_cells(kept, savings),
                    **speed_cells(None, savings),
                }

    def _speed_rows(self, point: Point) -> Iterator[Row]:
        """Each seed and their mean, decoding and prefill."""
        for phase in PHASES:
            for group in self._groups:
                summaries = [self._summary(point, seed) for seed in group.seeds]
                kept = _spread([summary.kept_fraction for summary in summaries])
                savings = self._savings(point, kept.mean, phase)
                quality = self._quality(point, group, None) if self.has_quality else None
                yield {
                    **self._keys(point, phase, self._executed(point, phase), group),
                    **quality_cells(quality),
                    **savings_cells(kept, savings),
                    **speed_cells(self._speed(point, group, phase), savings),
                }

    def _keys(self, point: Point, phase: str, backend: str, group: Group) -> Row:
        """The cells that name a row, of all tasks together."""
        return {
            "rule": point.rule,
            "k": point.keep,
            "task": ALL,
            "phase": phase,
            "backend": backend,
            "seed": group.name,
        }

    def _executed(self, point: Point, phase: Phase) -> str:
        """What was timed.

        At keep 1 the model's own modules, unless the kernel is forced. Of a prompt's many tokens
        only `static` skips work: its matrices are smaller. The prompt of `sequence` is dense.
        """
        if point.keep == 1 and not self.study.settings.force_at_one:
            return DENSE
        if phase == "decode":
            return str(self.study.settings.backend)
        return {"static": "torch", "sequence": DENSE}.get(point.rule, MASKS)

    def _part(self, point: Point, seed: int) -> Part:
        """Losses of a point."""
        if point.layer is None:
            return self.study.quality(seed, point.rule, point.keep)
        return self.study.layer(seed, point.rule, point.layer)[point.keep]

    def _kept(self, point: Point, group: Group, task: int | None) -> Spread:
        """What was kept on a task's tokens, or on all, over seeds."""
        return _spread([self._kept_in(point, seed, task) for seed in group.seeds])

    def _kept_in(self, point: Point, seed: int, task: int | None) -> float:
        """The same of one seed."""
        part = self._part(point, seed)
        return float(part["kept_fraction"] if task is None else part["kept_by_task"][task])

    @cached_property
    def _points(self) -> list[Point]:
        """Every measured model."""
        settings = self.study.settings
        points = [Point(rule, keep) for rule in settings.rules for keep in settings.keeps]
        for rule in settings.rules:
            for layer in self.study.single_layers(rule):
                points += [Point(rule, keep, layer) for keep in settings.keeps if keep < 1]
        return points

    @cached_property
    def _resampled(self) -> dict[tuple[str, Point | None], Resampled]:
        """Losses of the dense model (None) and of every point, of each group, drawn together."""
        found: dict[tuple[str, Point | None], Resampled] = {}
        for group in self._groups:
            parts = {None: [self.study.dense(seed) for seed in group.seeds]} | {
                point: [self._part(point, seed) for seed in group.seeds] for point in self._points
            }
            losses = [[losses_of_record(part) for part in own] for own in parts.values()]
            drawn = resampled_together(losses, self.seed)
            found |= {(group.name, key): own for key, own in zip(parts, drawn, strict=True)}
        return found

    def _quality(self, point: Point, group: Group, task: int | None) -> Quality:
        """What a point loses."""
        dense, own = (self._resampled[group.name, key] for key in (None, point))
        return quality_of(dense, own, task)

    def _critical_row(self, rule: str, group: Group, layer: int | None, task: int | None) -> Row:
        """The largest sparsity that costs 1 %."""
        points = [Point(rule, keep, layer) for keep in self.study.settings.keeps if keep < 1]
        kept = [[self._kept_in(point, seed, task) for seed in group.seeds] for point in points]
        dense = self._resampled[group.name, None]
        critical = critical_of(
            dense,
            [self._resampled[group.name, point] for point in points],
            np.array(kept).reshape(len(points), len(group.seeds)),
            task,
        )
        savings = self._savings(Point(rule, 0.0, layer), 1 - critical.value, "decode")
        return {
            "rule": rule,
            "scope": "layer" if layer is not None else "model" if task is None else "task",
            "layer": layer,
            "task": ALL if task is None else self.task_names[task],
            "seed": group.name,
            **critical_cells(critical, savings.bytes_reduction),
            "n_tokens": dense.n_tokens(task),
            "n_documents": dense.n_documents(task),
        }

    def _savings(self, point: Point, kept: float, phase: Phase) -> Savings:
        """What a point spares."""
        layers = self.study.gated_layers(point.rule) if point.layer is None else [point.layer]
        if phase == "prefill":
            n_prompt = self.window - min(DECODED, self.window // 2)
            return prefill_savings(self.costs, point.rule, kept, n_prompt, layers)
        return decode_savings(self.costs, point.rule, kept, self.window, layers)

    def _summaries(self, rule: str, seed: int) -> Mapping[str, SpeedSummary]:
        """Gains of every configuration of a rule."""
        return summary_of(self.study.speed(seed, rule))

    def _summary(self, point: Point, seed: int) -> SpeedSummary:
        """Gains of a point; at keep 1 of the dense model, or of the kernel where it is forced."""
        at_one = FORCED if self.study.settings.force_at_one else DENSE
        name = at_one if point.keep == 1 else f"{point.keep:g}"
        return self._summaries(point.rule, seed)[name]

    def _speed(self, point: Point, group: Group, phase: Phase) -> Speed:
        """Times of a point, the mean over seeds."""
        own = [self._summary(point, seed) for seed in group.seeds]
        dense = [self._summaries(point.rule, seed)[DENSE] for seed in group.seeds]
        gains = [_gain(summary, phase) for summary in own]
        at_one = point.keep == 1 and not self.study.settings.force_at_one
        has_kernel, skips = phase == "decode", not at_one
        mlp = _mean_gain([summary.mlp for summary in own]) if has_kernel else None
        return Speed(
            own=_told_apart(_mean_gain(gains), has_kernel, has_kernel and skips),
            mlp=None if mlp is None else _told_apart(mlp, has_kernel, skips),
            dense_tokens_per_sec=float(
                np.mean([_gain(summary, phase).tokens_per_sec for summary in dense])
            ),
            tokens_per_sec_std=_spread([gain.tokens_per_sec for gain in gains]).std,
            speedup_std=_spread([gain.speedup for gain in gains]).std,
        )


def _gain(summary: SpeedSummary, phase: Phase) -> Gain:
    """Of one phase."""
    return summary.decode if phase == "decode" else summary.prefill


def _mean_gain(gains: Sequence[Gain]) -> Gain:
    """The mean over seeds."""
    names = Gain.__dataclass_fields__
    return Gain(**{name: float(np.mean([getattr(gain, name) for gain in gains])) for name in names})


def _told_apart(gain: Gain, has_kernel: bool, skips: bool) -> Gain:
    """NaN for what a configuration does not have: a kernel of its own, work that it skips."""
    return replace(
        gain,
        kernel_gain=gain.kernel_gain if has_kernel else nan,
        sparsity_gain=gain.sparsity_gain if skips else nan,
    )


def _spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation over seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std)

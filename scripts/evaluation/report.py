"""Markdown of an evaluation: tables, sections, and criteria that are reached or not."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Criterion:
    """A figure that was measured beside what it should be.

    Attributes:
        name: What is judged.
        figure: What was measured.
        target: What is asked for.
        reached: Whether it is; None where a figure only had to be reported.
    """

    name: str
    figure: str
    target: str
    reached: bool | None

    @property
    def verdict(self) -> str:
        """What the last column says."""
        return {True: "yes", False: "**FAIL**", None: "reported"}[self.reached]


@dataclass
class Section:
    """A part of the report."""

    title: str
    parts: list[str] = field(default_factory=list)
    criteria: list[Criterion] = field(default_factory=list)

    def table(self, caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a caption and a table."""
        self.parts += [caption, table(columns, rows)]

    def __str__(self) -> str:
        return "\n\n".join([f"### {self.title}", *self.parts]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; fractions are printed with three decimals, NaN as a dash."""
    lines = [_line(columns), "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(_printed, cells))} |"


def _printed(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "-" if math.isnan(cell) else f"{cell:z.3f}"


def criteria_section(criteria: Sequence[Criterion]) -> Section:
    """All criteria in one table."""
    section = Section("Acceptance")
    rows = [(one.name, one.figure, one.target, one.verdict) for one in criteria]
    n_failed = sum(one.reached is False for one in criteria)
    caption = f"{n_failed} of {len(criteria)} criteria FAIL." if n_failed else "All are reached."
    section.table(caption, ("criterion", "figure", "target", "reached"), rows)
    return section

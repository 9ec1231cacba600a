"""A run as `scaling` reads it: whose it is, by which rules it was made, and its values."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any, NamedTuple

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.verifying import intact
from sdlms.scaling.metrics import ALL_TASKS, TABLES, Metric, Table
from sdlms.storage.sparse_acts import LATENTS
from sdlms.storage.tables import read_table

CONFIDENCE_95 = 1.96  # standard errors


class Subject(NamedTuple):
    """Which units of a model: of a site, or of the autoencoders there.

    Attributes:
        site: where in the model.
        kind: `neuron`, `latent` or `unit`.
    """

    site: str
    kind: str


class Value(NamedTuple):
    """One cell of a run's table.

    Attributes:
        subject: whose.
        metric: what it measures.
        task: on which text; `all` is on all of it.
        layer: from 0.
        value: NaN where it could not be measured.
        low: lower end of its 95 % interval; None where the table has none.
        high: upper end.
    """

    subject: Subject
    metric: Metric
    task: str
    layer: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Source:
    """One run.

    Attributes:
        run: it.
        model: name, behind an @ the revision that was asked for.
        n_parameters: of the model with its head.
        n_layers: of the model.
        weights: sha256 of their files, ascending.
        control: what was done to weights or tokens, `none` otherwise.
        rules: what must be the same in all models, by its name.
        values: of its table.
    """

    run: Run
    model: str
    n_parameters: int
    n_layers: int
    weights: tuple[str, ...]
    control: str
    rules: Mapping[str, str]
    values: list[Value]

    @property
    def stage(self) -> str:
        """Which made it."""
        return self.run.stage

    @property
    def subjects(self) -> list[Subject]:
        """Whose units were measured, in order."""
        return sorted({value.subject for value in self.values})

    @property
    def tasks(self) -> list[str]:
        """Tasks of its table, `all` among them, in order."""
        return list(dict.fromkeys(value.task for value in self.values))

    @property
    def layers(self) -> list[int]:
        """Layers of its table, ascending."""
        return sorted({value.layer for value in self.values})

    @property
    def described(self) -> str:
        """The run and its model, for messages."""
        return f"{self.run.name} ({self.model})"


def read_source(run: Run) -> Source:
    """Read what a run says of itself, and its table.

    Raises:
        UserError: it does not record the model's size or, of latents, whose they are; or its table
            cannot be read.
    """
    table, resolved = TABLES[run.stage], run.start["resolved"]
    record = resolved["model"]
    if "n_parameters" not in record:
        then = "" if run.stage == "capture" else f", then run sdlms {run.stage} on that"
        raise UserError(
            f"{run.name} does not say how many parameters {record['name']} has: an earlier version "
            f"of sdlms made it. Capture anew{then}."
        )
    if str(resolved.get("site")) == LATENTS and "encoded_site" not in resolved:
        raise UserError(
            f"{run.name} does not say of which site its latents are: an earlier version of sdlms "
            f"made it. Make it anew: sdlms {run.stage}"
        )
    rows = _rows_of(run, table)
    revision = record.get("revision")
    return Source(
        run=run,
        model=record["name"] + (f"@{revision}" if revision else ""),
        n_parameters=int(record["n_parameters"]),
        n_layers=int(record["n_layers"]),
        weights=tuple(sorted(record["weights"].values())),
        control=str(resolved.get("control", "none")),
        rules=dict([*_settings(run, table), *_firing_rules(rows, table, resolved)]),
        values=[value for row in rows for value in _values(row, table, resolved)],
    )


def _rows_of(run: Run, table: Table) -> list[dict[str, str]]:
    """The rows that are read, each with every column that is."""
    path = intact(run, table.file)
    rows = read_table(path)
    if table.only is not None:
        column, wanted = table.only
        rows = [row for row in rows if row.get(column) == wanted]
    if not rows:
        raise UserError(f"{path} has no row to read. See: sdlms runs verify {run.name}")
    needed = ["layer", *filter(None, [table.rule]), *(c for m in table.metrics for c in m.columns)]
    if absent := [column for column in needed if column not in rows[0]]:
        raise UserError(
            f"{path} has no column '{absent[0]}': another version of sdlms made it. Make it anew: "
            f"sdlms {run.stage}"
        )
    return rows


def _settings(run: Run, table: Table) -> Iterator[tuple[str, str]]:
    """Settings that must agree, as flags; and what was decided, where it was."""
    config = run.start["config"]
    graphs = table.of_graphs if config.get("graph") else ()
    for name in (*table.settings, *graphs):
        yield f"--{name.replace('_', '-')}", str(config.get(name))
    decided = run.start["decided"]
    yield from ((name, str(decided[name])) for name in table.decided if name in decided)


def _firing_rules(
    rows: list[dict[str, str]], table: Table, resolved: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The rule by which units fire, site by site."""
    if not table.rule:
        return
    found: dict[str, set[str]] = {}
    for row in rows:
        site = _subject(row, table, resolved).site
        found.setdefault(site, set()).add(row[table.rule])
    for site, names in sorted(found.items()):
        yield f"the threshold rule of {site}", ", ".join(sorted(names))


def _subject(row: Mapping[str, str], table: Table, resolved: Mapping[str, Any]) -> Subject:
    """Whose units a row is of; latents are those of the site that they encode."""
    site = row.get("site") or str(resolved.get("encoded_site") or resolved["site"])
    kind = str(resolved.get("kind", table.kind))
    return Subject(site, kind or ("neuron" if site == "mlp_act" else "unit"))


def _values(row: Mapping[str, str], table: Table, resolved: Mapping[str, Any]) -> Iterator[Value]:
    """The metrics of a row; an empty cell says that there is no such thing, and is no value."""
    subject, task = _subject(row, table, resolved), row.get("task") or ALL_TASKS
    for metric in table.metrics:
        if (cell := row[metric.column or metric.name]) == "":
            continue
        whole = float(row[metric.per]) if metric.per else 1.0
        value = float(cell) / whole
        yield Value(subject, metric, task, int(row["layer"]), value, *_ends(row, metric, whole))


def _ends(
    row: Mapping[str, str], metric: Metric, whole: float
) -> tuple[float | None, float | None]:
    """The 95 % interval; None and None where the table has none."""
    if metric.error:
        value, error = float(row[metric.column or metric.name]), float(row[metric.error] or nan)
        low, high = value - CONFIDENCE_95 * error, value + CONFIDENCE_95 * error
    elif metric.ends is not None:
        low, high = (float(row[column] or nan) for column in metric.ends)
    else:
        return None, None
    return low / whole, high / whole

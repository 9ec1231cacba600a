"""A run as `scaling` reads it: whose it is, by which rules it was made, and its values."""

import re
from collections.abc import Iterator, Mapping, Sequence
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
UNITS = ("neuron", "latent", "unit")
NOT_REACHED = re.compile(r"(^|; )(not reached|no sparsity)")
Rows = list[dict[str, str]]


class Subject(NamedTuple):
    """Which units of a model: of a site, or of the autoencoders there.

    Attributes:
        site: where in the model.
        kind: `neuron`, `latent` or `unit`; of a gated model the rule, with the fraction it keeps.
    """

    site: str
    kind: str

    @property
    def named(self) -> str:
        """For messages."""
        return f"{self.kind}{'s' * (self.kind in UNITS)} of {self.site}"


class Value(NamedTuple):
    """One cell of a run's table.

    Attributes:
        subject: whose.
        metric: what it measures.
        task: on which text; `all` is on all of it.
        layer: from 0; None of the whole model.
        value: NaN where it could not be measured.
        low: lower end of its 95 % interval; None where the table has none.
        high: upper end.
    """

    subject: Subject
    metric: Metric
    task: str
    layer: int | None
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
        given: what some metrics depend on beside the model, by the word of `Metric.given`.
        values: of its tables.
    """

    run: Run
    model: str
    n_parameters: int
    n_layers: int
    weights: tuple[str, ...]
    control: str
    rules: Mapping[str, str]
    given: Mapping[str, str]
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
    def quantities(self) -> set[tuple[Subject, Metric]]:
        """What was measured of whom."""
        return {(value.subject, value.metric) for value in self.values}

    @property
    def tasks(self) -> list[str]:
        """Tasks of its tables, `all` among them, in order."""
        return list(dict.fromkeys(value.task for value in self.values))

    @property
    def layers(self) -> list[int]:
        """Layers of its tables, ascending."""
        return sorted({value.layer for value in self.values if value.layer is not None})

    @property
    def described(self) -> str:
        """The run and its model, for messages."""
        return f"{self.run.name} ({self.model})"


def read_source(run: Run) -> Source:
    """Read what a run says of itself, and its tables.

    Raises:
        UserError: it does not record the model's size or, of latents, whose they are; or its tables
            cannot be read.
    """
    resolved = run.start["resolved"]
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
    read = _read_tables(run)
    revision = record.get("revision")
    return Source(
        run=run,
        model=record["name"] + (f"@{revision}" if revision else ""),
        n_parameters=int(record["n_parameters"]),
        n_layers=int(record["n_layers"]),
        weights=tuple(sorted(record["weights"].values())),
        control=str(resolved.get("control", "none")),
        rules=dict(rule for table, rows in read for rule in _rules(run, table, rows)),
        given={"machine": _machine(run, read), "tokenizer": _tokenizer(record)},
        values=[
            value for table, rows in read for row in rows for value in _values(row, table, resolved)
        ],
    )


def _read_tables(run: Run) -> list[tuple[Table, Rows]]:
    """Tables with the rows that are read, one row at least; a run may lack what it did not measure.

    Of a stage with one table, that one is there or refused.
    """
    tables = TABLES[run.stage]
    written = {record["path"] for record in run.all_of("output")}
    there = [table for table in tables if table.file in written] or tables[:1]
    read = [(table, _rows_of(run, table)) for table in there]
    if not any(rows for _, rows in read):
        path = run.path / there[0].file
        raise UserError(f"{path} has no row to read. See: sdlms runs verify {run.name}")
    return read


def _rows_of(run: Run, table: Table) -> Rows:
    """The rows that are read, each with every column that is."""
    path = intact(run, table.file)
    rows = read_table(path)
    if rows and (absent := [column for column in table.columns if column not in rows[0]]):
        raise UserError(
            f"{path} has no column '{absent[0]}': another version of sdlms made it. Make it anew: "
            f"sdlms {run.stage}"
        )
    return [row for row in rows if all(row[column] == cell for column, cell in table.only)]


def _rules(run: Run, table: Table, rows: Rows) -> Iterator[tuple[str, str]]:
    """What must agree: settings as flags, what was decided, where it was, and how units fire."""
    config, resolved, decided = (run.start[name] for name in ("config", "resolved", "decided"))
    graphs = table.of_graphs if config.get("graph") else ()
    for name in (*table.settings, *graphs):
        yield f"--{name.replace('_', '-')}", _as_text(config.get(name))
    yield from ((f"--{name}", str(resolved.get(name))) for name in table.resolved)
    yield from ((name, str(decided[name])) for name in table.decided if name in decided)
    yield from _firing_rules(rows, table, resolved)


def _as_text(setting: object) -> str:
    """A setting; of several numbers the order does not matter."""
    return ", ".join(map(str, sorted(setting))) if isinstance(setting, list) else str(setting)


def _machine(run: Run, read: Sequence[tuple[Table, Rows]]) -> str:
    """What measured times depend on."""
    decided = run.start["decided"]
    backends = {row[table.backend] for table, rows in read if table.backend for row in rows}
    named = [decided.get(name) for name in ("device_name", "dtype")]
    words = [*named, f"{decided.get('threads')} threads", *sorted(backends)]
    return ", ".join(str(word) for word in words if word)


def _tokenizer(record: Mapping[str, Any]) -> str:
    """The vocabulary by its hash; of a tokenizer in several files, all of theirs."""
    hashes = record.get("tokenizer") or {}
    return str(hashes.get("tokenizer.json") or " ".join(sorted(hashes.values())))


def _firing_rules(
    rows: Rows, table: Table, resolved: Mapping[str, Any]
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
    own = row.get("site") or table.site
    site = own or str(resolved.get("encoded_site") or resolved["site"])
    if table.kinds:
        return Subject(site, ":".join(row[column] for column in table.kinds))
    kind = str(resolved.get("kind", table.kind))
    return Subject(site, kind or ("neuron" if site == "mlp_act" else "unit"))


def _values(row: Mapping[str, str], table: Table, resolved: Mapping[str, Any]) -> Iterator[Value]:
    """The metrics of a row; an empty cell says that there is no such thing, and is no value."""
    subject, task = _subject(row, table, resolved), row.get("task") or ALL_TASKS
    layer = int(row[table.layer]) if table.layer and row[table.layer] else None
    for metric in table.metrics:
        if (cell := row[metric.column or metric.name]) == "":
            continue
        if metric.bound and NOT_REACHED.search(row[metric.bound]):
            yield Value(subject, metric, task, layer, nan, nan, nan)
            continue
        whole = float(row[metric.per]) if metric.per else 1.0
        value = float(cell) / whole
        yield Value(subject, metric, task, layer, value, *_ends(row, metric, whole))


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

from dataclasses import fields

import pytest

from sdlms import cli
from sdlms.acts.sparsity import COLUMNS as SPARSITY_COLUMNS
from sdlms.dynamic.tables import COLUMNS as DYNAMIC_K_COLUMNS
from sdlms.dynamic.tables import CRITICAL_COLUMNS
from sdlms.lens.tables import COLUMNS as LENS_COLUMNS
from sdlms.options import dashed
from sdlms.sae.measuring import COLUMNS as SAE_COLUMNS
from sdlms.scaling.metrics import TABLES, Metric, Table, metrics_of
from sdlms.structure.tables import COLUMNS as SI_COLUMNS

WRITTEN = {
    "sparsity.csv": SPARSITY_COLUMNS,
    "sae.csv": SAE_COLUMNS,
    "si_modularity.csv": SI_COLUMNS,
    "dynamic_k.csv": DYNAMIC_K_COLUMNS,
    "critical.csv": CRITICAL_COLUMNS,
    "logit_lens.csv": LENS_COLUMNS,
}
STAGES = {dashed(stage.__name__.rpartition(".")[2]): stage for stage in cli.STAGES}
EVERY_TABLE = [table for tables in TABLES.values() for table in tables]


@pytest.mark.parametrize("stage", list(TABLES))
def test_every_column_is_one_that_the_stage_writes(stage: str) -> None:
    for table in TABLES[stage]:
        assert set(table.columns) <= set(WRITTEN[table.file])
    assert len({metric.name for metric in metrics_of(stage)}) == len(metrics_of(stage))


def test_a_table_names_the_columns_it_needs() -> None:
    table = Table(file="a.csv", metrics=(Metric("a", "index", per="n"),), rule="by")
    assert table.columns == ("layer", "by", "a", "n")
    whole = table._replace(layer="", backend="c", kinds=("d", "e"), only=(("f", "1"),))
    assert whole.columns == ("by", "c", "d", "e", "f", "a", "n")


@pytest.mark.parametrize("stage", sorted(set(TABLES) & set(STAGES)))
def test_settings_that_must_agree_are_settings_of_the_stage(stage: str) -> None:
    known = {field.name for field in fields(STAGES[stage].Config)}
    for table in TABLES[stage]:
        assert {*table.settings, *table.of_graphs, *table.resolved} <= known
        assert "graph" in known or not table.of_graphs


def test_an_interval_that_the_table_has_is_read() -> None:
    for table in EVERY_TABLE:
        for metric in table.metrics:
            column = metric.column or metric.name
            if f"{column}_se" in WRITTEN[table.file]:
                assert metric.error == f"{column}_se"
            if f"{column}_low" in WRITTEN[table.file]:
                assert metric.ends == (f"{column}_low", f"{column}_high")


def test_measured_times_are_joined_on_one_machine_alone() -> None:
    timed = [metric for table in EVERY_TABLE if table.backend for metric in table.metrics]
    assert timed and {metric.given for metric in timed} == {"machine"}
    assert {m.given for table in EVERY_TABLE for m in table.metrics} == {"", "machine", "tokenizer"}


def test_a_metric_names_the_columns_it_needs() -> None:
    assert Metric("a", "index").columns == ("a",)
    share = Metric("a", "fraction", column="b", error="b_se", per="n")
    assert share.columns == ("b", "b_se", "n")
    assert Metric("a", "index", ends=("low", "high")).columns == ("a", "low", "high")

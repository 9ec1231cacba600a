from dataclasses import fields

import pytest

from sdlms import cli
from sdlms.acts.sparsity import COLUMNS as SPARSITY_COLUMNS
from sdlms.options import dashed
from sdlms.sae.measuring import COLUMNS as SAE_COLUMNS
from sdlms.scaling.metrics import TABLES, Metric
from sdlms.structure.tables import COLUMNS as SI_COLUMNS

WRITTEN = {"capture": SPARSITY_COLUMNS, "sae-train": SAE_COLUMNS, "si-modularity": SI_COLUMNS}
STAGES = {dashed(stage.__name__.rpartition(".")[2]): stage for stage in cli.STAGES}


@pytest.mark.parametrize("stage", list(TABLES))
def test_every_column_is_one_that_the_stage_writes(stage: str) -> None:
    table = TABLES[stage]
    named = {column for metric in table.metrics for column in metric.columns}
    assert {"layer", *named, *filter(None, [table.rule])} <= set(WRITTEN[stage])
    assert len({metric.name for metric in table.metrics}) == len(table.metrics)
    if table.only is not None:
        assert table.only[0] in WRITTEN[stage]


@pytest.mark.parametrize("stage", sorted(set(TABLES) & set(STAGES)))
def test_settings_that_must_agree_are_settings_of_the_stage(stage: str) -> None:
    table, known = TABLES[stage], {field.name for field in fields(STAGES[stage].Config)}
    assert {*table.settings, *table.of_graphs} <= known
    assert "graph" in known or not table.of_graphs


def test_an_interval_that_the_table_has_is_read() -> None:
    for stage, table in TABLES.items():
        for metric in table.metrics:
            column = metric.column or metric.name
            if f"{column}_se" in WRITTEN[stage]:
                assert metric.error == f"{column}_se"
            if f"{column}_low" in WRITTEN[stage]:
                assert metric.ends == (f"{column}_low", f"{column}_high")


def test_a_metric_names_the_columns_it_needs() -> None:
    assert Metric("a", "index").columns == ("a",)
    share = Metric("a", "fraction", column="b", error="b_se", per="n")
    assert share.columns == ("b", "b_se", "n")
    assert Metric("a", "index", ends=("low", "high")).columns == ("a", "low", "high")

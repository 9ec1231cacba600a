"""What a run writes: every row has the columns of its table, graphs hold the same edges."""

from pathlib import Path

import networkx as nx
import pytest

from sdlms.runs.parts import Parts
from sdlms.structure.firing import ALL
from sdlms.structure.graphs import GraphSettings
from sdlms.structure.results import Results
from sdlms.structure.study import Study
from sdlms.structure.subject import open_subject
from sdlms.structure.threshold_rule import ThresholdRule
from tests.stages.probe_runs import LAYERS, noise, published

N_UNITS = 6


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two layers of noise, with the five strongest edges of each."""
    folder = tmp_path_factory.mktemp("results")
    run = published(folder, noise(60, n_tokens=20, n_units=N_UNITS))
    subject = open_subject(run, None, ("all",), ThresholdRule("quantile", 0.8))
    study = Study(subject, {}, 0, Parts(folder / "parts"), folder)
    layers = [study.measure(layer, lambda _: None) for layer in LAYERS]
    settings = GraphSettings(2, 5, 0, "networkx")
    graphs = {each.layer: study.graphs(each, settings, lambda _: None) for each in layers}
    return Results(layers, graphs, "quantile_0.8", "none")


def test_rows_have_the_columns_of_their_table(results: Results) -> None:
    names = []
    for name, columns, rows in results.tables():
        names.append(name)
        found = list(rows)
        assert found, name
        assert all(set(row) == set(columns) for row in found), name
        assert {row["layer"] for row in found} >= set(LAYERS), name
    assert len(set(names)) == 6


def test_without_graphs_there_are_no_tables_of_them(results: Results) -> None:
    without = Results(results.layers, {}, "quantile_0.8", "reinit")
    tables = {table.name: list(table.rows) for table in without.tables()}
    assert set(tables) == {"si_modularity.csv", "units.csv", "controls.csv"}
    assert {row["Q"] for row in tables["si_modularity.csv"]} == {None}
    assert {row["control"] for row in tables["si_modularity.csv"]} == {"reinit"}
    assert {row["community"] for row in tables["units.csv"]} == {None}
    assert not list(without.write_graphs(Path()))


def test_each_layer_has_its_rows_and_its_graph(results: Results, tmp_path: Path) -> None:
    tables = {table.name: list(table.rows) for table in results.tables()}
    assert [(row["layer"], row["task"]) for row in tables["si_modularity.csv"]] == [
        (layer, task) for layer in LAYERS for task in (ALL, "a", "b")
    ]
    names = list(results.write_graphs(tmp_path))
    assert names == [f"graph_layer{layer}.graphml" for layer in LAYERS]
    for layer, name in zip(LAYERS, names, strict=True):
        graph = nx.read_graphml(tmp_path / name)
        edges, units = results.graphs[layer].edges, results.graphs[layer].units
        expected = {
            frozenset((str(units[one]), str(units[other])))
            for one, other in zip(edges.first, edges.second, strict=True)
        }
        assert {frozenset(edge) for edge in graph.edges} == expected
        in_table = {row["unit"] for row in tables["communities.csv"] if row["layer"] == layer}
        assert {int(node) for node in graph.nodes} == in_table

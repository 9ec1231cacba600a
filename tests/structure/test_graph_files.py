import os
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.structure.graph_files import write_graph

ENDS = np.array([0, 0, 3]), np.array([1, 3, 1])
UNITS = {
    "unit": np.array([7, 9, 11, 40]),
    "community": np.array([0, 0, -1, 1]),
    "preferred_task": ["code", "math & <qa>", "", "code"],
    "SI_adjusted": np.array([0.1 + 0.2, np.nan, 0.5, -0.25]),
}
EDGES = {
    "joint": np.array([12, 10, 99]),
    "evidence": np.array([4.5, 1 / 3, np.inf]),
    "weight": np.array([0.25, 1.0, 1e-9]),
}


def test_networkx_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "graph_layer1.graphml"
    write_graph(path, ENDS, UNITS, EDGES)
    graph = nx.read_graphml(path)
    assert dict(graph.nodes(data=True)) == {
        "7": {"unit": 7, "community": 0, "preferred_task": "code", "SI_adjusted": 0.1 + 0.2},
        "9": {"unit": 9, "community": 0, "preferred_task": "math & <qa>"},
        "40": {"unit": 40, "community": 1, "preferred_task": "code", "SI_adjusted": -0.25},
    }
    assert graph.edges["7", "9"] == {"joint": 12, "evidence": 4.5, "weight": 0.25}
    assert graph.edges["7", "40"] == {"joint": 10, "evidence": 1 / 3, "weight": 1.0}
    assert graph.edges["40", "9"] == {"joint": 99, "weight": 1e-9}
    assert graph.number_of_edges() == 3


def test_igraph_reads_it_too(tmp_path: Path) -> None:
    igraph = pytest.importorskip("igraph")
    path = tmp_path / "graph.graphml"
    write_graph(path, ENDS, UNITS, EDGES)
    graph = igraph.Graph.Read_GraphML(str(path))
    assert graph.vs["unit"] == [7, 9, 40]
    assert graph.es["joint"] == [12, 10, 99]


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "one.graphml", tmp_path / "two.graphml"]
    for path in paths:
        write_graph(path, ENDS, UNITS, EDGES)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert b"nan" not in paths[0].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_no_edge_is_an_empty_graph(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=int)
    write_graph(tmp_path / "empty.graphml", (none, none), UNITS, {"weight": np.zeros(0)})
    assert len(nx.read_graphml(tmp_path / "empty.graphml")) == 0


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    path = tmp_path / "graph.graphml"
    with pytest.raises(UserError, match=rf"^cannot write {path}: disk full\.$"):
        write_graph(path, ENDS, UNITS, EDGES)
    assert not list(tmp_path.iterdir())


def test_a_column_of_another_length_is_our_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_graph(tmp_path / "graph.graphml", ENDS, UNITS, {"weight": np.zeros(2)})
    assert not list(tmp_path.iterdir())

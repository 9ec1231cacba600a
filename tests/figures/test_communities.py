"""Maps of communities: every cell is the table's, and the largest communities come first."""

from math import nan
from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.figures.communities import ALL, MOST_ROWS, communities_figure
from sdlms.runs.reading import Run
from sdlms.storage.tables import Cell
from sdlms.structure.enrichment import COLUMNS
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.table_runs import table_run

TASKS = ("python_code", "dialogue", "reasoning")
EXPECTED = (0.2, 0.5, 0.3)


def community_tables(sizes: dict[int, list[int]]) -> dict[str, list[dict[str, Cell]]]:
    """Layers of communities of these sizes; c prefers task c % 3, its last has nothing scored."""
    rows: list[dict[str, Cell]] = []
    units: list[dict[str, Cell]] = []
    for layer, of_layer in sizes.items():
        for number, size in enumerate(of_layer):
            scored = size if number < len(of_layer) - 1 else 0
            for t, task in enumerate(TASKS):
                fraction = (0.6 if number % 3 == t else 0.2) if scored else nan
                rows.append(
                    dict.fromkeys(COLUMNS, 0.0)
                    | {"layer": layer, "community": number, "units": size, "scored": scored}
                    | {"task": task, "fraction": fraction, "expected": scored * EXPECTED[t]}
                    | {"enriched": int(number % 3 == t and scored > 0)}
                )
            units += [{"layer": layer, "unit": n, "community": number} for n in range(size)]
    return {"community_tasks.csv": rows, "communities.csv": units}


def structure(artifacts: Path, sizes: dict[int, list[int]]) -> Run:
    return table_run(artifacts, "si-modularity", community_tables(sizes))


def test_cells_are_the_table(tmp_path: Path) -> None:
    figure = communities_figure(structure(tmp_path, {1: [5, 9, 3], 4: [2, 2]}), "a title")
    first, second, bar = figure.axes
    assert first.get_title() == "layer 1: 3 of 3 communities,\n17 of the graph's 17 units"
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["1 (9 units)", "0 (5 units)", "2 (3 units)", ALL]
    assert [label.get_text() for label in first.get_xticklabels()] == list(TASKS)
    values = np.asarray(first.images[0].get_array())
    none = [nan] * 3
    np.testing.assert_allclose(values, [[0.2, 0.6, 0.2], [0.6, 0.2, 0.2], none, EXPECTED])
    said = {text.get_position(): (text.get_text(), text.get_weight()) for text in first.texts}
    assert said[1, 0] == ("60*", "bold") and said[0, 0] == ("20", "normal")
    assert said[1, 3] == ("50", "normal") and len(said) == 9  # nothing is written where NaN is
    assert second.get_title().startswith("layer 4: 2 of 2")
    assert bar.get_ylabel() == "share of units"
    assert_nothing_overlaps(figure)


def test_only_the_largest_are_drawn_and_the_title_says_so(tmp_path: Path) -> None:
    sizes = [20 - n for n in range(MOST_ROWS + 3)]
    figure = communities_figure(structure(tmp_path, {0: sizes}), "a title")
    panel = figure.axes[0]
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names[:2] == ["0 (20 units)", "1 (19 units)"] and len(names) == MOST_ROWS + 1
    drawn, held = sum(sizes[:MOST_ROWS]), sum(sizes)
    wanted = f"layer 0: 12 of 15 communities,\n{drawn} of the graph's {held} units"
    assert panel.get_title() == wanted
    assert_nothing_overlaps(figure)


def test_a_run_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "si-modularity", {"si_modularity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"made no graphs; make it without --no-graph\.$"):
        communities_figure(run, "a title")
    run = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no community_tasks\.csv; a run of si-modularity"):
        communities_figure(run, "a title")

"""Probes by layer: the table's AUROC and intervals, kinds apart, controls grey."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.figures.probes import GREY, LOOKS, auroc_figure
from sdlms.probes.controls import CONTROLS
from sdlms.probes.kinds import KINDS
from sdlms.probes.scoring import COLUMNS
from sdlms.runs.reading import Run
from tests.figures.overlaps import assert_nothing_overlaps
from tests.figures.table_runs import ends_of, looks_of, table_run

LABELS = ("python_code", "math", "qa", "prose")
LAYERS = (3, 6, 12)


def value(kind: str, layer: int, seed: int) -> float:
    return 0.9 - list(LOOKS).index(kind) / 20 + LAYERS.index(layer) / 100 + seed / 1000


def probed(artifacts: Path, kinds: tuple[str, ...] = tuple(LOOKS), seeds: int = 2) -> Run:
    rows = [
        dict.fromkeys(COLUMNS)
        | {"layer": layer, "kind": kind, "seed": seed, "label": label}
        | {"auroc": value(kind, layer, seed)}
        | {
            "auroc_low": value(kind, layer, seed) - 0.05,
            "auroc_high": value(kind, layer, seed) + 0.02,
        }
        for layer in LAYERS
        for kind in kinds
        for seed in range(seeds)
        for label in LABELS
    ]
    return table_run(artifacts, "probe", {"probe.csv": rows})


@pytest.fixture
def figure(tmp_path: Path) -> Figure:
    return auroc_figure(probed(tmp_path), "a title")


def test_values_and_intervals_are_those_of_the_first_seed(figure: Figure) -> None:
    assert [panel.get_title() for panel in figure.axes] == list(LABELS)
    assert "seed 0; small points: other seeds" in " ".join(figure.get_suptitle().splitlines())
    for panel in figure.axes:
        assert [container.get_label() for container in panel.containers] == list(LOOKS)
        for container in panel.containers:
            kind = container.get_label()
            values = [value(kind, layer, 0) for layer in LAYERS]
            assert list(container[0].get_ydata()) == pytest.approx(values)
            for own, ends in zip(values, ends_of(container), strict=True):
                assert ends == (pytest.approx(own - 0.05), pytest.approx(own + 0.02))
        others = [line for line in panel.lines if line.get_marker() == "."]
        drawn = {round(y, 9) for line in others for y in line.get_ydata()}
        assert drawn == {round(value(kind, layer, 1), 9) for kind in LOOKS for layer in LAYERS}


def test_every_kind_has_a_look_of_its_own_and_controls_are_grey(figure: Figure) -> None:
    assert set(LOOKS) == {*KINDS, *CONTROLS}
    assert {kind for kind, look in LOOKS.items() if look.colour == GREY} == set(CONTROLS)
    assert len({look.dashes for look in LOOKS.values() if look.colour != GREY}) == len(KINDS)
    assert len(looks_of(figure.axes[0].containers)) == len(LOOKS)


def test_kinds_stand_around_their_layer(figure: Figure) -> None:
    for panel in figure.axes:
        places = [container[0].get_xdata() for container in panel.containers]
        ordered = [float(x) for layer in zip(*places, strict=True) for x in layer]
        assert ordered == sorted(set(ordered))
    bottom = figure.axes[-1]
    assert [label.get_text() for label in bottom.get_xticklabels()] == [str(n) for n in LAYERS]
    assert bottom.get_xlabel() == "layer"


def test_nothing_overlaps(tmp_path: Path, figure: Figure) -> None:
    assert_nothing_overlaps(figure)
    alone = auroc_figure(probed(tmp_path, ("logistic", *CONTROLS), seeds=1), "a title")
    assert "seed" not in alone.get_suptitle()
    assert_nothing_overlaps(alone)


def test_a_run_of_another_stage_is_one_line(tmp_path: Path) -> None:
    run = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"holds no probe\.csv; a run of probe is needed\.$"):
        auroc_figure(run, "a title")

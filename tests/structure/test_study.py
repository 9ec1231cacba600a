"""One layer from a run to its numbers: each step is the one that its own tests check."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdlms.storage.firings import Firings
from sdlms.structure import study as module
from sdlms.structure.control_table import NONE, SHUFFLED
from sdlms.structure.firing import ALL
from sdlms.structure.graphs import GraphSettings
from sdlms.structure.parts import Parts
from sdlms.structure.specialization import specialize
from sdlms.structure.study import Layer, Study
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.tables import CURVE_COLUMNS
from sdlms.structure.threshold_rule import ThresholdRule
from tests.stages.probe_runs import LAYERS, noise, published, raised

LAYER = LAYERS[0]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """60 documents of two tasks; unit 0 fires more in the first."""
    run = published(tmp_path, raised(noise(60, n_tokens=20, n_units=6), LAYER, 1.5))
    return open_subject(run, None, (str(LAYER),), ThresholdRule("quantile", 0.8))


@pytest.fixture
def study(subject: Subject, tmp_path: Path) -> Study:
    controls = {"reinit": replace(subject, control="reinit")}
    return Study(subject, controls, 0, Parts(tmp_path / "parts"), tmp_path)


def test_a_layer_and_its_controls_are_measured_alike(study: Study) -> None:
    told: list[int] = []
    layer = study.measure(LAYER, told.append)
    assert told == [1, 1]
    assert layer.thresholds.shape == (6,)
    expected = specialize(layer.counts, 0)
    for found in (layer.own, layer.controls["reinit"]):
        np.testing.assert_array_equal(found.units["SI"], expected.units["SI"])
    assert int(np.nanargmax(layer.own.units["SI"])) == 0


def test_levels_are_the_layer_s_means(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    levels = layer.levels()
    assert list(levels) == [NONE, "reinit", SHUFFLED]
    assert levels[NONE].value == layer.own.rows[ALL]["SI_adjusted"]
    assert levels[NONE].units_scored == layer.own.rows[ALL]["units_scored"]
    assert levels[SHUFFLED].value == pytest.approx(0, abs=1e-9)
    assert np.quantile(levels[NONE].draws, 0.025) > np.quantile(levels[SHUFFLED].draws, 0.975)


def test_the_curve_begins_with_the_own_threshold_and_is_kept(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    rows = study.curve(layer)
    assert all(set(row) == set(CURVE_COLUMNS) for row in rows)
    names = [row["threshold"] for row in rows]
    assert names[:2] == ["quantile_0.8", "zero"] and len(set(names)) == len(names)
    assert rows[0]["SI"] == layer.own.rows[ALL]["SI"]
    rates = {str(row["threshold"]): float(str(row["firing_rate"])) for row in rows}
    assert rates["quantile_0.8"] == pytest.approx(0.2, abs=0.01)
    assert rates["quantile_0.99"] < rates["quantile_0.9"] < rates["quantile_0.5"]
    assert study.parts.has(f"layer_{LAYER}_curve")
    assert study.curve(layer) == rows


def test_a_run_without_activations_has_one_point(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    without = replace(study, subject=replace(study.subject, source=None))
    assert [row["threshold"] for row in without.curve(layer)] == ["quantile_0.8"]


def test_firings_are_gone_when_the_graphs_are_there(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, seen = study.measure(LAYER, lambda _: None), []
    graphs = module.layer_graphs

    def watched(firings: Firings, *rest: object) -> module.LayerGraphs:
        seen.append((firings.n_units, firings.n_tokens))
        return graphs(firings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "layer_graphs", watched)
    found = study.graphs(layer, GraphSettings(1, 3, 0, "networkx"), lambda _: None)
    assert seen == [(6, study.subject.n_tokens)]
    assert len(found.edges.first) == 3
    assert not list(study.scratch.glob("*.firings"))


def test_a_layer_is_its_own_parts(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    assert isinstance(layer, Layer) and layer.layer == LAYER

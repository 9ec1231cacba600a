"""One layer from a run to its numbers: each step is the one that its own tests check."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdlms.runs.parts import Parts
from sdlms.storage.firings import Firings
from sdlms.structure import study as module
from sdlms.structure.control_table import MATCHED, NONE, SHUFFLED
from sdlms.structure.firing import ALL
from sdlms.structure.graphs import GraphSettings
from sdlms.structure.specialization import specialize
from sdlms.structure.study import Layer, Study
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.tables import CURVE_COLUMNS
from sdlms.structure.threshold_rule import ThresholdRule
from tests.acts.samples import Sample
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


def test_fresh_weights_are_also_matched_unit_by_unit(
    study: Study, subject: Subject, tmp_path: Path
) -> None:
    data = noise(60, n_tokens=20, n_units=6)
    other = Sample({n: 2 * acts.flip(0) - 1 for n, acts in data.acts.items()}, data.rows)
    run = published(tmp_path / "reinit", other)
    reinit = open_subject(run, None, (str(LAYER),), ThresholdRule("quantile", 0.5))
    with_both = replace(study, controls={"reinit": reinit, "permute-tokens": subject})
    told: list[int] = []
    (layer,) = with_both.measured([LAYER], told.append)
    assert len(told) == with_both.n_measured == 4
    assert list(layer.controls) == ["reinit", MATCHED, "permute-tokens"]
    own, plain, matched = (
        each.units["firing_rate"] for each in (layer.own, *list(layer.controls.values())[:2])
    )
    assert matched == pytest.approx(own)
    assert plain == pytest.approx(0.5, abs=0.01)
    assert layer.identity[ALL]["token_identity_fraction"] == 1
    levels = layer.levels()
    assert list(levels) == [NONE, "reinit", MATCHED, "permute-tokens", SHUFFLED]
    assert levels[MATCHED].firing_rate == pytest.approx(levels[NONE].firing_rate)
    without = replace(with_both, controls={"reinit": replace(reinit, source=None)})
    assert (without.matches, without.n_measured) == (False, 2)


def test_a_rule_that_misses_its_rate_is_pointed_out(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = noise(60, n_tokens=20, n_units=6)
    zeros = Sample({n: acts.clamp(min=0) for n, acts in data.acts.items()}, data.rows)
    run = published(tmp_path / "relu", zeros)
    subject = open_subject(run, None, ("all",), ThresholdRule("quantile", 0.3))
    with caplog.at_level("WARNING", "sdlms"):
        study.measured([LAYER], lambda _: None)
        assert not caplog.records
        replace(study, subject=subject, controls={}).measured(subject.layers, lambda _: None)
    (record,) = caplog.records
    assert "% of tokens, not on 70 %" in record.message


def test_a_layer_and_its_controls_are_measured_alike(study: Study) -> None:
    told: list[int] = []
    layer = study.measure(LAYER, told.append)
    assert told == [1, 1, 1]
    assert layer.thresholds.shape == (6,)
    expected = specialize(layer.counts, 0)
    for found in (layer.own, layer.controls["reinit"]):
        np.testing.assert_array_equal(found.units["SI"], expected.units["SI"])
    assert int(np.nanargmax(layer.own.units["SI"])) == 0


def test_levels_are_the_layer_s_means(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    levels = layer.levels()
    assert list(levels) == [NONE, "reinit", MATCHED, SHUFFLED]
    assert math.isnan(levels[SHUFFLED].significant_fraction)
    assert levels[NONE].value == layer.own.rows[ALL]["SI_adjusted"]
    assert levels[NONE].units_scored == layer.own.rows[ALL]["units_scored"]
    assert 0 < abs(levels[SHUFFLED].value) < levels[SHUFFLED].draws.std() / 10
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


def test_time_is_told_once_for_all_layers(
    subject: Subject, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = open_subject(subject.run, None, ("all",), subject.rule)
    study = Study(both, {}, 0, Parts(tmp_path / "parts"), tmp_path)
    layers = [study.measure(layer, lambda _: None) for layer in LAYERS]
    settings = GraphSettings(3, 3, 0, "networkx")
    with caplog.at_level(logging.INFO, "sdlms"):
        found = study.all_graphs(layers, settings, lambda _: None)
        assert list(found) == list(LAYERS)
        (told,) = caplog.messages
        assert told.startswith(f"{3 * len(LAYERS)} draws of both graph nulls, about ")
        for path in (tmp_path / "parts").glob(f"layer_{LAYERS[-1]}_rewired_[12].json"):
            path.unlink()
        study.all_graphs(layers, settings, lambda _: None)
        assert caplog.messages[1].startswith("2 draws of both graph nulls")
        study.all_graphs(layers, settings, lambda _: None)
    assert len(caplog.messages) == 2


def test_a_layer_is_its_own_parts(study: Study) -> None:
    layer = study.measure(LAYER, lambda _: None)
    assert isinstance(layer, Layer) and layer.layer == LAYER

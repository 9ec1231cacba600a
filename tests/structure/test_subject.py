from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.models.tokens import documents_within
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.activations import Header, create_activations
from sdlms.structure.captured import read_counts_of
from sdlms.structure.subject import open_subject
from sdlms.structure.threshold_rule import AT_ZERO, AUTO, ThresholdRule
from tests.acts.samples import sample
from tests.acts.sparse_samples import sparse_sample
from tests.stages.probe_runs import published
from tests.structure.read_runs import captured, published_latents

ALL = ("all",)
DECILE, MEDIAN = ThresholdRule("quantile", 0.9), ThresholdRule("quantile", 0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One with activations, one without."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    words = ["--tasks", "qa,math", "--layers", "0,2", "--seed", 4]
    counted = ["--site", "mlp_act,resid_pre", "--no-save"]
    return {
        "saved": captured(artifacts, *words),
        "counted": captured(artifacts, *words, *counted),
    }


def test_a_capture_keeps_its_own_rule(runs: dict[str, Run]) -> None:
    for rule in (AUTO, DECILE):
        found = open_subject(runs["saved"], None, ALL, rule)
        assert (found.site, found.kind, found.layers) == ("mlp_act", "neuron", [0, 2])
        assert (found.rule, found.control, found.n_units) == (DECILE, "none", 192)
        assert found.counts == runs["saved"].path / "counts.h5"
        assert found.has_firings
        assert found.model["name"] == "sdlms-small"
        assert found.documents.task_names == ("math", "qa")
        assert found.n_tokens == found.documents.n_tokens.sum()


@pytest.mark.parametrize("rule", [AT_ZERO, MEDIAN])
def test_under_another_rule_counts_are_not_the_captures(
    runs: dict[str, Run], rule: ThresholdRule
) -> None:
    found = open_subject(runs["saved"], "mlp_act", ("67%",), rule)
    assert (found.rule, found.counts, found.layers) == (rule, None, [2])


def test_a_run_without_activations_has_counts_alone(runs: dict[str, Run]) -> None:
    found = open_subject(runs["counted"], "resid_pre", ("2",), AUTO)
    assert (found.site, found.kind, found.layers) == ("resid_pre", "unit", [2])
    assert (found.rule, found.n_units, found.has_firings) == (DECILE, 48, False)
    saved = open_subject(runs["saved"], None, ALL, AUTO)
    assert found.documents.ids == saved.documents.ids


def test_a_sample_is_chosen_as_a_capture_chooses_its_own(runs: dict[str, Run]) -> None:
    found = open_subject(runs["saved"], None, ALL, AUTO)
    recorded = read_counts_of(runs["saved"], "/threshold_sample/documents")
    assert np.array_equal(found.documents.indices[found.sample], recorded)
    n_tokens = found.documents.n_tokens
    many = np.tile(n_tokens, 400)
    larger = replace(found, documents=replace(found.documents, n_tokens=many))
    assert larger.sample.tolist() == documents_within(many, 32_768, 4)
    assert many[larger.sample].sum() <= 32_768 < many.sum()


def test_what_is_recorded(runs: dict[str, Run]) -> None:
    found = open_subject(runs["saved"], None, ("0",), MEDIAN)
    record = found.record()
    assert record.pop("model") == runs["saved"].start["resolved"]["model"]
    assert record == {
        "acts": runs["saved"].name,
        "control": "none",
        "site": "mlp_act",
        "layers": [0],
        "threshold": "quantile_0.5",
        "threshold_sample_documents": len(found.documents.ids),
        "threshold_sample_tokens": found.n_tokens,
    }


def test_latents_fire_above_zero(tmp_path: Path) -> None:
    run = published_latents(tmp_path, sparse_sample([3, 4, 5], n_units=6))
    found = open_subject(run, None, ALL, AUTO)
    assert (found.site, found.kind, found.n_units) == ("sae_latents", "latent", 6)
    assert (found.rule, found.counts, found.control) == (AT_ZERO, None, "reinit")
    assert open_subject(run, None, ALL, DECILE).rule == DECILE


def test_where_no_table_tells_it_the_rule_is_that_of_the_site(tmp_path: Path) -> None:
    run = published(tmp_path, sample([3, 4]), "mlp_act")
    assert open_subject(run, None, ALL, AUTO).rule == DECILE


@pytest.mark.parametrize(
    ("which", "site", "layers", "rule", "said"),
    [
        ("saved", "resid_post", ALL, AUTO, "holds no site 'resid_post', but mlp_act"),
        ("saved", None, ("1",), AUTO, "layer 1 is not there; .* holds layers 0, 2"),
        ("saved", None, ("7",), AUTO, "there is no layer 7; the model has layers 0 to 2"),
        ("counted", None, ALL, AUTO, "has the sites mlp_act, resid_pre; choose one: --site"),
        ("counted", "mlp_out", ALL, AUTO, "has no such site, but mlp_act, resid_pre"),
        ("counted", "mlp_act", ("1",), AUTO, "layer 1 is not there"),
        ("counted", "mlp_act", ALL, AT_ZERO, "are those of quantile_0.9, not of zero"),
        ("counted", "mlp_act", ALL, MEDIAN, "not of quantile_0.5. Leave it at auto"),
    ],
)
def test_what_a_run_has_not_is_one_line(
    runs: dict[str, Run],
    which: str,
    site: str | None,
    layers: tuple[str, ...],
    rule: ThresholdRule,
    said: str,
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_subject(runs[which], site, layers, rule)
    assert "\n" not in str(caught.value)


def test_negative_thresholds_of_latents_are_refused(tmp_path: Path) -> None:
    run = published_latents(tmp_path, sparse_sample([3, 4]))
    with pytest.raises(UserError, match=r"--threshold fixed:-0\.5: latents are 0 .* Use fixed:0"):
        open_subject(run, None, ALL, ThresholdRule("fixed", -0.5))


def test_pooled_activations_are_refused(tmp_path: Path) -> None:
    data = sample([3, 4])
    with RunWriter("capture", {"seed": 0}, RunOptions(artifacts=tmp_path)) as out:
        out.start({"model": {"name": "tiny", "n_layers": 4}}, {})
        header = Header(
            model="tiny",
            revision="",
            units={("resid_post", 1): 3},
            store_dtype={"resid_post": "float32"},
            activation_function="gelu",
            gated=False,
            dims="blh",
            pools=("mean s",),
        )
        create_activations(out.path / "activations.h5", header, data.rows)
        out.output("activations.h5")
    with pytest.raises(UserError, match=r"pooled activations \(mean s\); units fire on tokens"):
        open_subject(Run(out.path), None, ALL, AUTO)


def test_a_run_that_holds_neither_is_refused(tmp_path: Path) -> None:
    with RunWriter("capture", {"seed": 0}, RunOptions(artifacts=tmp_path)) as out:
        out.start({"model": {"name": "tiny", "n_layers": 4}}, {})
    with pytest.raises(UserError, match=r"holds no activations\.h5"):
        open_subject(Run(out.path), None, ALL, AUTO)

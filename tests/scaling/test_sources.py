import math
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.scaling.sources import Source, Subject, Value, read_source
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, model_of, modular, trained


def found(source: Source, metric: str, task: str, layer: int | None) -> Value:
    """One value."""
    (value,) = (
        v for v in source.values if (v.metric.name, v.task, v.layer) == (metric, task, layer)
    )
    return value


def rewritten(run: Run, file: str, old: str, new: str) -> Run:
    """The same run as if it had been made with another content of one file."""
    path, meta = run.path / file, run.path / "meta.jsonl"
    for each in (path, meta):
        each.chmod(0o644)
    before = path.read_bytes()
    path.write_text(path.read_text().replace(old, new))
    after = path.read_bytes()
    for one, other in (
        (sha256(before).hexdigest(), sha256(after).hexdigest()),
        (f'"bytes": {len(before)}', f'"bytes": {len(after)}'),
    ):
        meta.write_text(meta.read_text().replace(one, other))
    return Run(run.path)


def test_a_capture_is_read(tmp_path: Path) -> None:
    run = captured(tmp_path, "medium", sites=("mlp_act", "resid_post"))
    source = read_source(run)
    assert (source.stage, source.model, source.control) == ("capture", "medium", "none")
    assert (source.n_parameters, source.n_layers, source.layers) == (10_000_000, 4, [1, 2, 3])
    assert source.subjects == [Subject("mlp_act", "neuron"), Subject("resid_post", "unit")]
    assert source.tasks == ["qa", "math"]
    assert source.rules == {
        "--skip-first": "0",
        "the threshold rule of mlp_act": "quantile_0.9",
        "the threshold rule of resid_post": "quantile_0.9",
    }
    assert source.described == f"{run.name} (medium)"


def test_standard_errors_become_intervals_and_shares_are_shared_out(tmp_path: Path) -> None:
    source = read_source(captured(tmp_path, "medium"))
    value = found(source, "activation_fraction", "qa", 2)
    assert (value.value, value.low, value.high) == pytest.approx((0.3, 0.3 - 0.0196, 0.3 + 0.0196))
    whole = found(source, "participation_ratio", "math", 1)
    assert (whole.value, whole.low, whole.high) == pytest.approx((2, 2 - 0.784, 2 + 0.784))
    share = found(source, "participation_fraction", "math", 1)
    assert (share.value, share.low, share.high) == pytest.approx((0.25, 0.152, 0.348))
    assert found(source, "dead_fraction", "qa", 1)[4:] == (0.5, None, None)


def test_selected_members_alone_are_read(tmp_path: Path) -> None:
    source = read_source(trained(tmp_path, "small", 0.2))
    assert source.subjects == [Subject("resid_post", "latent")]
    assert (source.tasks, source.layers) == (["all"], [1, 2])
    assert found(source, "fvu", "all", 2)[4:] == (0.2, 0.1, 0.4)
    assert found(source, "dead_fraction", "all", 1).value == 0.25
    assert source.rules == {"--arch": "topk", "--select": "knee"}
    value = found(source, "ce_recovered", "all", 1)
    assert math.isnan(value.value) and math.isnan(value.low or 0) and value.high == 1


def test_an_empty_cell_is_no_value_and_nan_is_one(tmp_path: Path) -> None:
    source = read_source(modular(tmp_path, "medium"))
    assert source.subjects == [Subject("mlp_act", "neuron")]
    assert source.tasks == ["all", "qa", "math"]
    counted = [value.task for value in source.values if value.metric.name == "n_communities"]
    assert counted == ["all"] * 4
    assert math.isnan(found(source, "z_Q", "qa", 0).value)
    assert found(source, "SI", "qa", 3)[4:] == pytest.approx((0.1, 0.09, 0.12))
    assert source.rules["the threshold rule of mlp_act"] == "quantile:0.9"


def test_the_run_says_what_its_units_are(tmp_path: Path) -> None:
    latents = modular(tmp_path, "medium", site="sae_latents", kind="latent", encoded_site="mlp_act")
    source = read_source(latents)
    assert source.subjects == [Subject("mlp_act", "latent")]
    assert source.rules == {
        "--top-edges": "0",
        "--nulls": "20",
        "louvain": "igraph",
        "the threshold rule of mlp_act": "quantile:0.9",
    }
    without = read_source(modular(tmp_path, "medium", louvain=None))
    assert list(without.rules) == ["the threshold rule of mlp_act"]


def test_latents_of_an_unknown_site_are_refused(tmp_path: Path) -> None:
    run = modular(tmp_path, "medium", site="sae_latents", kind="latent")
    earlier = rewritten(run, "meta.jsonl", '"encoded_site": null', '"seed": 0')
    with pytest.raises(UserError, match=r"of which site its latents are.*: sdlms si-modularity$"):
        read_source(earlier)


def test_weights_are_known_by_their_hashes(tmp_path: Path) -> None:
    shards = {"b": "02", "a": "10"}
    run = captured(tmp_path, "small", model=model_of("small", weights=shards))
    assert read_source(run).weights == ("02", "10")


def test_a_revision_is_another_model(tmp_path: Path) -> None:
    run = captured(tmp_path, "small", model=model_of("small", revision="step1000"))
    assert read_source(run).model == "small@step1000"


def test_a_run_without_the_models_size_is_refused(tmp_path: Path) -> None:
    earlier = {key: value for key, value in model_of("small").items() if key != "n_parameters"}
    with pytest.raises(UserError, match=r"how many parameters small has.*Capture anew\.$"):
        read_source(captured(tmp_path, "small", model=earlier))
    with pytest.raises(UserError, match=r"Capture anew, then run sdlms sae-train on that\.$"):
        read_source(trained(tmp_path, "small", model=earlier))


def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    run = captured(tmp_path, "small", label="a")
    with pytest.raises(UserError, match=r"no column 'firing_rate_se'.*Make it anew"):
        read_source(rewritten(run, "sparsity.csv", "firing_rate_se", "another"))
    run = trained(tmp_path, "small")
    with pytest.raises(UserError, match=r"has no row to read\. See: sdlms runs verify"):
        read_source(rewritten(run, "sae.csv", ",1,", ",0,"))


@pytest.mark.parametrize("change", [lambda _: b"", lambda old: old[:-30], lambda _: b"\xff\xfe"])
def test_a_damaged_table_is_one_line(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    run = trained(tmp_path, "small")
    path = run.path / "sae.csv"
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=rf"sae\.csv is damaged .* verify {run.name}$"):
        read_source(Run(run.path))


def test_a_gated_model_is_read_from_two_tables(tmp_path: Path) -> None:
    run = gated(tmp_path, "medium", rules=["top-p"], keep=[0.5])
    source = read_source(run)
    assert source.subjects == [Subject("mlp", "top-p"), Subject("mlp", "top-p:0.5")]
    assert [subject.named for subject in source.subjects] == ["top-p of mlp", "top-p:0.5 of mlp"]
    assert (source.tasks, source.layers) == (["all", "qa", "math"], [1, 2, 3])
    assert found(source, "perplexity_ratio", "qa", None)[4:] == pytest.approx((1.025, 1.015, 1.045))
    assert found(source, "perplexity", "all", None).value == pytest.approx(8.2)
    assert found(source, "speedup", "all", None)[4:] == (pytest.approx(3**0.5), None, None)
    assert found(source, "bytes_reduction", "math", None).value == 0.125
    assert found(source, "critical_sparsity", "all", None).value == 0.6
    assert found(source, "critical_sparsity", "all", 2).value == 0.7
    assert source.rules == {
        "--keep": "0.5",
        "--seed": "0",
        "--seeds": "3",
        "--max-tokens": "1000",
        "--calibration-tokens": "4096",
        "--force-sparse-at-one": "False",
        "--window": "64",
        "--stride": "32",
        "dtype": "float32",
    }
    assert source.given == {"machine": "a CPU, float32, 2 threads, compiled", "tokenizer": "t0"}


def test_what_was_not_measured_is_no_value(tmp_path: Path) -> None:
    timed = read_source(gated(tmp_path, "medium", measure="speed"))
    assert {v.metric.name for v in timed.values} == {"speedup", "speedup_mlp", "sparsity_gain_mlp"}
    assert (timed.tasks, timed.layers) == (["all"], [])
    measured = read_source(gated(tmp_path, "medium", measure="quality"))
    assert not {v.metric.name for v in measured.values} & {v.metric.name for v in timed.values}
    with pytest.raises(UserError, match=r"dynamic_k\.csv has no row to read"):
        read_source(gated(tmp_path, "medium", keep=[], rules=[]))


@pytest.mark.parametrize(
    "reason", ["not reached", "interval from 3 documents; not reached in 1 of 3 seeds"]
)
def test_a_sparsity_that_was_not_reached_is_not_known(tmp_path: Path, reason: str) -> None:
    """It is one that costs less than 1 %: a bound, which no trend may take for the value."""
    source = read_source(gated(tmp_path, "medium", rules=["top-p"], reason=reason))
    assert all(math.isnan(number) for number in found(source, "critical_sparsity", "all", None)[4:])
    assert found(source, "critical_sparsity", "all", 2).value == 0.7  # only its upper end is not
    assert found(source, "critical_sparsity", "qa", None).value == 0.6

"""`sdlms si-modularity` through the real command line: what each table says, and what stays."""

import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sdlms.acts import load_acts
from sdlms.runs.reading import Run, list_runs
from sdlms.storage.counts import read_counts
from sdlms.structure import study
from tests.stages.killing_stages import killed_chains
from tests.stages.probe_runs import Cli, newest, outputs, table
from tests.stages.structure_runs import QUICK, resolved

Streams = pytest.CaptureFixture[str]
TASKS = ["python_code", "math", "qa", "prose", "dialogue", "reasoning"]
FEW = ["--nulls", "2", *QUICK]
TABLES = {"si_modularity.csv", "units.csv", "controls.csv", "thresholds.csv"}
GRAPHS = {"communities.csv", "community_tasks.csv", "resolutions.csv"}


def number(row: dict[str, str], column: str) -> float:
    return float(row[column])


def test_every_table_of_a_run_with_controls_graphs_and_ablation(
    cli: Cli, work: Path, names: dict[str, str], capsys: Streams
) -> None:
    controls = f"{names['reinit']},{names['permute-tokens']}"
    words = ["--acts", names["none"], "--controls", controls, "--ablate", "--ablate-tokens", "3000"]
    assert cli("si-modularity", *words, *FEW) == 0
    assert capsys.readouterr().out.strip() == str(newest(work).relative_to(work))
    run = Run(newest(work))
    assert {r["run"] for r in run.all_of("input")} == set(names.values())
    files = {r["path"] for r in run.all_of("output")}
    ablation = {"ablation.csv", "ablation_matrix.csv"}
    assert files == TABLES | GRAPHS | ablation | {"graph_layer1.graphml", "graph_layer2.graphml"}
    for record in run.all_of("output"):
        if record["path"].endswith(".csv"):
            assert list(table(run.path, record["path"])[0]) == record["columns"]
    assert cli("runs", "verify", run.name) == 0
    found = resolved(run.path)
    assert (found["threshold"], found["kind"], found["tasks"]) == ("quantile_0.9", "neuron", TASKS)
    rows = table(run.path, "si_modularity.csv")
    assert [(row["layer"], row["task"]) for row in rows] == [
        (layer, task) for layer in ("1", "2") for task in ("all", *TASKS)
    ]
    for row in rows:
        assert number(row, "SI_adjusted_low") < number(row, "SI_adjusted")
        assert number(row, "SI_adjusted") < number(row, "SI_adjusted_high")
        assert number(row, "SI_adjusted") < number(row, "SI")
        assert math.isfinite(number(row, "Q")) == (row["Q_reason"] == "")
        assert "fewer than 200" in row["warning"]
        assert bool(row["Q_pooled"]) == (row["task"] == "all")
    for row in rows[::7]:
        low, high = (number(row, f"token_identity_fraction_{end}") for end in ("low", "high"))
        assert low < number(row, "token_identity_fraction") < high
        assert number(row, "units_scored") == 192 - number(row, "units_dead") - number(
            row, "units_rare"
        )


def test_units_and_their_tasks_add_up_to_the_layer(
    cli: Cli, work: Path, names: dict[str, str]
) -> None:
    assert cli("si-modularity", "--acts", names["none"], "--layers", "2", *FEW) == 0
    run = newest(work)
    units, rows = table(run, "units.csv"), table(run, "si_modularity.csv")
    scored = [unit for unit in units if unit["dead"] == "0" and unit["rare"] == "0"]
    for row in rows:
        own = [u for u in scored if row["task"] in ("all", u["preferred_task"])]
        assert number(row, "units_scored") == len(own)
        for column in ("SI", "SI_plain", "SI_adjusted", "mutual_information_nats"):
            mean = np.mean([number(unit, column) for unit in own])
            assert number(row, column) == pytest.approx(mean, rel=1e-9)
        share = np.mean([number(unit, "q") < 0.05 for unit in own])
        assert number(row, "significant_fraction") == pytest.approx(share)
    counts = read_counts(work / f"artifacts/{names['none']}/counts.h5", "/mlp_act/layer_2/counts")
    assert [int(unit["fired"]) for unit in units] == counts.sum(axis=0).tolist()


def test_the_graph_s_modularity_is_networkx_s(cli: Cli, work: Path, names: dict[str, str]) -> None:
    assert cli("si-modularity", "--acts", names["none"], "--layers", "1", *FEW) == 0
    run = newest(work)
    graph = nx.read_graphml(run / "graph_layer1.graphml")
    row, *_ = table(run, "si_modularity.csv")
    communities: dict[str, set[str]] = {}
    for unit in table(run, "communities.csv"):
        communities.setdefault(unit["community"], set()).add(unit["unit"])
    assert graph.number_of_edges() == int(row["n_edges"])
    modularity = nx.community.modularity(graph, communities.values())
    assert number(row, "Q_best") == pytest.approx(modularity, rel=1e-9)
    assert int(row["n_communities"]) == sum(len(own) > 1 for own in communities.values())
    units = {unit["unit"]: unit for unit in table(run, "units.csv")}
    for name, attributes in graph.nodes(data=True):
        assert int(units[name]["community"]) == attributes["community"]
        assert units[name]["preferred_task"] == attributes["preferred_task"]


def test_top_edges_takes_exactly_as_many(cli: Cli, work: Path, names: dict[str, str]) -> None:
    words = ["--acts", names["none"], "--layers", "1", "--top-edges", "200"]
    assert cli("si-modularity", *words, *FEW) == 0
    assert {row["n_edges"] for row in table(newest(work), "si_modularity.csv")} == {"200"}


def test_a_capture_without_activations_is_enough_for_specialization(
    cli: Cli, work: Path, names: dict[str, str], capsys: Streams
) -> None:
    capture = ["--model", "sdlms-small", "--layers", "1,2", "--max-tokens", "2500"]
    assert cli("capture", *capture, "--dtype", "float32", "--no-save", *QUICK) == 0
    counted = newest(work).name
    capsys.readouterr()
    assert cli("si-modularity", "--acts", counted, *FEW) == 2
    assert "which units fire together is not known" in capsys.readouterr().err
    assert cli("si-modularity", "--acts", counted, "--no-graph", *QUICK) == 0
    without = newest(work)
    assert set(outputs(without)) == TABLES
    assert cli("si-modularity", "--acts", names["none"], "--no-graph", *QUICK) == 0
    kept = newest(work)
    same = TABLES - {"thresholds.csv"}  # which needs activations for other thresholds
    assert {name: outputs(kept)[name] for name in same} == {
        name: outputs(without)[name] for name in same
    }
    assert {row["threshold"] for row in table(without, "thresholds.csv")} == {"quantile_0.9"}


def test_a_control_that_is_taken_for_the_newest_capture_is_pointed_out(
    cli: Cli, work: Path, names: dict[str, str], capsys: Streams
) -> None:
    words = ["--layers", "1", "--no-graph", "--threads", "1"]
    assert cli("si-modularity", *words) == 0
    said = f"{names['permute-tokens']} is a control, not the model itself: permute-tokens"
    assert f"{said}; the newest that is: --acts {names['none']}" in capsys.readouterr().err
    rows = table(newest(work), "si_modularity.csv")
    assert {row["control"] for row in rows} == {"permute-tokens"}
    assert {row["SI_adjusted_reinit"] for row in rows} == {""}


def test_a_higher_threshold_makes_units_look_more_special(
    cli: Cli, work: Path, names: dict[str, str]
) -> None:
    words = ["--acts", names["none"], "--layers", "2", "--no-graph"]
    assert cli("si-modularity", *words, "--threshold", "quantile:0.95", *QUICK) == 0
    higher = newest(work)
    assert cli("si-modularity", *words, *QUICK) == 0
    own = newest(work)
    by_rule = {row["threshold"]: row for row in table(own, "thresholds.csv")}
    (row, *_), (above, *_) = table(own, "si_modularity.csv"), table(higher, "si_modularity.csv")
    assert (row["threshold"], above["threshold"]) == ("quantile_0.9", "quantile_0.95")
    assert number(above, "SI") > number(row, "SI")
    # The curve's point at that threshold, whose chance level has fewer shuffles.
    assert number(by_rule["quantile_0.95"], "SI") == pytest.approx(number(above, "SI"), rel=1e-9)
    chance = number(by_rule["quantile_0.95"], "SI_adjusted")
    assert chance == pytest.approx(number(above, "SI_adjusted"), abs=2e-3)


def test_latents_are_units_too(cli: Cli, work: Path, names: dict[str, str]) -> None:
    training = ["--acts", names["none"], "--layers", "2", "--tokens", "8192", "--expansion", "2"]
    assert (
        cli("sae-train", *training, "--arch", "topk", "--k", "8", "--ce-tokens", "0", *QUICK) == 0
    )
    assert cli("sae-latents", *QUICK) == 0
    latents = newest(work).name
    words = ["--acts", latents, "--ablate", "--ablate-tokens", "2000"]
    assert cli("si-modularity", *words, *FEW) == 0
    run = newest(work)
    found = resolved(run)
    assert (found["site"], found["kind"], found["threshold"]) == ("sae_latents", "latent", "zero")
    assert found["encoded_site"] == "mlp_act"
    row, *_ = table(run, "si_modularity.csv")
    units = table(run, "units.csv")
    assert (row["layer"], int(row["units"])) == ("2", len(units))
    entries = load_acts(Run(work / "artifacts" / latents)).realize().tensor
    assert sum(int(unit["fired"]) for unit in units) == int((entries > 0).sum())
    assert {row["layer"] for row in table(run, "ablation.csv")} == {"2"}


def test_the_same_settings_give_the_same_bytes(cli: Cli, work: Path, names: dict[str, str]) -> None:
    words = ["--acts", names["none"], "--layers", "1", "--ablate", "--ablate-tokens", "1500", *FEW]
    assert cli("si-modularity", *words) == 0
    first = outputs(newest(work))
    assert cli("si-modularity", *words) == 0
    assert outputs(newest(work)) == first
    assert cli("si-modularity", *words, "--seed", "1") == 0
    assert outputs(newest(work))["si_modularity.csv"] != first["si_modularity.csv"]


def test_an_interrupt_is_resumed_where_it_was(
    cli: Cli, work: Path, names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["si-modularity", "--acts", names["none"], *FEW]
    assert cli(*words) == 0
    whole, graphs, calls = newest(work), study.layer_graphs, []

    def interrupted(*arguments: object) -> study.LayerGraphs:
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return graphs(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "layer_graphs", interrupted)
    assert cli(*words) == 130
    assert cli(*words, "--resume") == 0
    assert calls == ["layer_1", "layer_2", "layer_1", "layer_2"]
    assert Run(newest(work)).all_of("resume") and newest(work) != whole
    assert outputs(newest(work)) == outputs(whole)


def test_a_run_is_not_continued_with_another_louvain(
    cli: Cli, work: Path, names: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    words = ["si-modularity", "--acts", names["none"], "--layers", "1", *FEW]

    def interrupted(*_: object) -> study.LayerGraphs:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(study, "layer_graphs", interrupted)
        assert cli(*words) == 130
    monkeypatch.setattr("sdlms.structure.communities.louvain_library", lambda: "networkx")
    capsys.readouterr()
    assert cli(*words, "--resume") == 0
    assert "no unfinished si-modularity run has these settings" in capsys.readouterr().err
    assert str(resolved(newest(work))["louvain"]).startswith("networkx ")
    assert table(newest(work), "communities.csv")


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(
    work: Path, names: dict[str, str]
) -> None:
    words = ["si-modularity", "--acts", names["none"], "--layers", "2", *FEW]
    found = killed_chains(work, 3, *words)
    assert (found["different"], found["unfinished"]) == (0, [])
    assert found["kills"] >= 3 and found["resumed"] >= 1


@pytest.mark.slow
def test_training_made_units_more_special_than_fresh_weights_have_them(
    cli: Cli, work: Path
) -> None:
    capture = ["capture", "--layers", "all", "--dtype", "float32", "--quiet"]
    for control in ("none", "reinit", "permute-tokens"):
        kept = [] if control == "reinit" else ["--no-save"]
        assert cli(*capture, *kept, "--control", control, "--label", control) == 0
    model, reinit, permuted = [run.name for run in list_runs(work / "artifacts")]
    words = ["--acts", model, "--controls", f"{reinit},{permuted}", "--no-graph", "--quiet"]
    assert cli("si-modularity", *words) == 0
    found = {
        row["control"]: row for row in table(newest(work), "controls.csv") if row["layer"] == "mean"
    }
    fresh = ["reinit", "reinit-matched"]
    assert set(found) == {"none", "shuffled-labels", *fresh, "permute-tokens"}
    own, chance = found["none"], found["shuffled-labels"]
    for name in fresh:
        assert number(own, "SI_adjusted_low") > number(found[name], "SI_adjusted_high")
        assert number(found[name], "SI_adjusted_low") > number(chance, "SI_adjusted_high")
    # Units of fresh weights fire twice as often unless they are matched, which lowers the index.
    rates = [number(found[name], "firing_rate") for name in ("none", *fresh)]
    assert rates[1] > 1.5 * rates[0]
    assert rates[2] == pytest.approx(rates[0], rel=0.05)
    assert number(found["reinit-matched"], "SI_adjusted") > number(found["reinit"], "SI_adjusted")
    assert 0 < abs(number(chance, "SI_adjusted")) < 1e-4

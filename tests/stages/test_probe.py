"""The probe stage through the real command line: what it promises, on runs with planted classes."""

import random
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from sklearn import metrics

from sdlms.acts import load_acts
from sdlms.numerics.bootstrap import auroc_interval
from sdlms.numerics.splits import TEST, grouped_split
from sdlms.probes.controls import CONTROLS
from sdlms.probes.kinds import KINDS
from sdlms.probes.saving import load_probe
from sdlms.probes.scoring import COLUMNS, N_RESAMPLES, PREDICTION_COLUMNS
from sdlms.runs.reading import Run, list_runs
from tests.acts.samples import Sample
from tests.stages.probe_runs import (
    FAST,
    LAYERS,
    SMALL,
    Cli,
    document_labels,
    masked,
    newest,
    noise,
    outputs,
    predictions,
    published,
    raised,
    table,
    write_labels,
)

CLASSES = ("a", "b", "c")
ITERATIVE = {name for name, kind in KINDS.items() if kind.iterative}


def assert_rows_agree_with_predictions(run: Path) -> None:
    """Every metric of probe.csv follows from predictions.csv, by scikit-learn and by hand."""
    judged = predictions(run)
    for row in table(run):
        if row["kind"] in CONTROLS:
            continue
        own = judged[row["layer"], row["kind"], row["seed"], row["label"]]
        truth = np.array([r["target"] == "1" for r in own])
        scores = np.array([np.float32(r["probability"]) for r in own])
        documents = np.unique([r["document_id"] for r in own], return_inverse=True)[1]
        assert int(row["n_test"]) == len(own)
        expected = {
            "auroc": metrics.roc_auc_score(truth, scores),
            "accuracy": metrics.accuracy_score(truth, scores > 0.5),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, scores > 0.5),
            "average_precision": metrics.average_precision_score(truth, scores),
            "brier": metrics.brier_score_loss(truth, scores.astype(np.float64)),
            "recall_at_fpr_01": recall(truth, scores, 0.01),
            "recall_at_fpr_05": recall(truth, scores, 0.05),
        }
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-9), (name, row)
        low, high = auroc_interval(scores, truth, documents, N_RESAMPLES, seed=int(row["seed"]))
        assert (float(row["auroc_low"]), float(row["auroc_high"])) == pytest.approx((low, high))
        assert 0 <= float(row["auroc_low"]) <= float(row["auroc_high"]) <= 1


def recall(truth: np.ndarray, scores: np.ndarray, rate: float) -> float:
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    return float(true[false <= rate].max())


def assert_splits_keep_documents_apart(run: Path, ids: list[str], classes: np.ndarray) -> None:
    """Tested are the documents that the seed's split says, each once per probe, no other."""
    for (_, _, seed, _), own in predictions(run).items():
        roles = grouped_split(np.arange(len(ids)), classes, int(seed))
        tested = {ids[i] for i in np.flatnonzero(roles == TEST)}
        places = [(row["document_id"], row["token"]) for row in own]
        assert len(set(places)) == len(places)
        assert {document for document, _ in places} == tested


@pytest.fixture
def data() -> Sample:
    return raised(noise(24, CLASSES), 1, 3.0)


def test_every_kind_on_every_layer_seed_and_label(
    cli: Cli, work: Path, data: Sample, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(work, data)
    assert cli("probe", "--acts", "latest", "--labels", "task", "--seeds", 2, "--seed", 4) == 0
    streams = capsys.readouterr()
    run = newest(work)
    assert streams.out.splitlines()[-1] == str(run.relative_to(work))
    assert [record["run"] for record in Run(run).all_of("input")] == [source.name]
    assert cli("runs", "verify", run.name) == 0

    rows = table(run)
    assert list(rows[0]) == COLUMNS
    found = [(int(r["layer"]), r["kind"], int(r["seed"]), r["label"]) for r in rows]
    assert found == list(product(LAYERS, [*KINDS, *CONTROLS], (4, 5), CLASSES))
    judged = table(run, "predictions.csv")
    assert list(judged[0]) == PREDICTION_COLUMNS
    n_tested = {4: 6, 5: 6}  # a fifth of eight, rounded, of each of three classes
    assert len(judged) == len(LAYERS) * len(KINDS) * len(CLASSES) * sum(n_tested.values())
    assert all(row["token"] == "" for row in judged)
    n_train = {True: "15", False: "18"}  # of eight two are tested on, one may say when to stop
    for row in rows:
        assert row["n_train"] == n_train[row["kind"] in ITERATIVE], row
    assert {row["converged"] for row in rows} <= {"yes", "no"}

    names = list(outputs(run))
    assert {"probe.csv", "predictions.csv"} < set(names)
    assert len([n for n in names if n.startswith("probes/") and n.endswith(".json")]) == 72
    resolved = Run(run).start["resolved"]
    assert resolved["acts"] == source.name
    assert resolved["labels"] == {"a": 8, "b": 8, "c": 8}
    assert Run(run).start["decided"]["kinds"] == list(KINDS)
    assert Run(run).records[-1]["documents"] == 24

    classes = np.array([CLASSES.index(task) for task in data.rows.document_tasks])
    assert_rows_agree_with_predictions(run)
    assert_splits_keep_documents_apart(run, data.rows.document_ids, classes)
    assert_saved_probes_predict_the_same(source.path, run)
    log = streams.err
    assert "24 documents (a 8, b 8, c 8)" in log
    assert "of 12 probes stopped after 5 epochs without a better validation loss" in log
    assert "shuffled_labels (a control): AUROC 0." in log
    assert "logistic: 12 probes in " in log
    assert "epoch 1 ended" not in log
    assert "mlp: epoch 1 ended, 12 of 12 probes go on" in (run / "logs/run.log").read_text()


def assert_saved_probes_predict_the_same(source: Path, run: Path) -> None:
    acts = load_acts(source)
    places = {name: i for i, name in enumerate(acts.document_ids)}
    for (layer, kind, seed, label), own in predictions(run).items():
        (path,) = (run / "probes" / kind).glob(f"layer_{layer}_seed_{seed}_label_?_{label}.json")
        probe = load_probe(path.with_suffix(""))
        one = acts.select_layers(int(layer))
        x = one if KINDS[kind].needs_tokens else one.mean_pool()
        found = probe.predict(x.realize()).numpy()[[places[r["document_id"]] for r in own]]
        written = np.array([r["probability"] for r in own], dtype=np.float32)
        if kind in ITERATIVE:
            np.testing.assert_allclose(found, written, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(found, written)


def test_two_classes_make_one_label_the_second(cli: Cli, work: Path) -> None:
    published(work, noise(12, ("yes", "no")))
    assert cli("probe", *FAST) == 0
    assert {row["label"] for row in table(newest(work))} == {"yes"}
    assert all(
        (row["target"] == "1") == (int(row["document_id"], 16) % 2 == 0)
        for row in table(newest(work), "predictions.csv")
    )


@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_documents_are_pooled_as_told(cli: Cli, work: Path, pool: str) -> None:
    data = noise(20)
    acts = data.acts[1].clone()
    for document, (first, last) in enumerate(
        zip(data.rows.offsets[:-1], data.rows.offsets[1:], strict=True)
    ):
        acts[first:last, 0] = torch.tensor([9.0, -9.0] * 3)[: last - first]
        if pool == "last":  # only the last token tells
            acts[last - 1, 0] = 5.0 if document % 2 else -5.0
        elif pool == "max":  # the mean does not tell
            acts[first : first + 2, 0] += torch.tensor([3.0, -3.0]) * (document % 2)
            acts[first + 2 : last, 0] = 0
        else:
            acts[first:last, 0] = 2.0 if document % 2 else -2.0
    source = published(work, Sample({**data.acts, 1: acts}, data.rows))
    assert cli("probe", "--pool", pool, "--layers", 1, "--seeds", 3, *FAST) == 0
    run = newest(work)
    aurocs = [float(r["auroc"]) for r in table(run) if r["kind"] == "logistic"]
    assert aurocs == [1.0] * 3
    pooled = getattr(load_acts(source.path).select_layers(1), f"{pool}_pool")()
    probe = load_probe(run / "probes/logistic/layer_1_seed_0_label_0_b")
    own = predictions(run)["1", "logistic", "0", "b"]
    found = probe.predict(pooled.realize())[[int(r["document_id"], 16) for r in own]]
    assert found.tolist() == [float(np.float32(r["probability"])) for r in own]


def test_a_table_labels_some_documents_and_says_what_it_leaves_out(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = raised(noise(30), 1, 3.0)
    mask = np.ones(data.rows.n_tokens)
    mask[data.rows.offsets[5] : data.rows.offsets[6]] = 0  # nothing of document 5 is read
    published(work, masked(data, mask))
    rows = [(f"{i:016x}", "x", f"class {'zyz'[i % 3]}") for i in range(20)]
    rows += [("ffff", "", "class z"), ("eeee", "", "class y")]
    random.Random(0).shuffle(rows)
    path = write_labels(work / "labels.csv", rows, "﻿document_id,note,label")
    assert cli("probe", "--labels", path.name, "--kinds", "logistic", "--threads", 1) == 0
    run = newest(work)
    log = capsys.readouterr().err
    assert "19 documents (class y 7, class z 12)" in log
    assert "10 of 30 documents have no label: left out" in log
    assert "2 rows of --labels name no document of the run: left out" in log
    assert "1 of 20 documents have no labelled token that is neither special nor skipped" in log
    by_id = {document: label for document, _, label in rows}
    judged = table(run, "predictions.csv")
    assert all((r["target"] == "1") == (by_id[r["document_id"]] == "class z") for r in judged)
    assert {row["label"] for row in judged} == {"class z"}
    ids = [f"{i:016x}" for i in range(20) if i != 5]
    classes = np.array([by_id[name] == "class z" for name in ids]).astype(np.int64)
    assert_splits_keep_documents_apart(run, ids, classes)
    assert (run / "probes/logistic/layer_1_seed_0_label_0_class_z.json").is_file()
    assert Run(run).start["resolved"]["labels_sha256"] is not None


def test_nothing_is_said_of_what_is_not_left_out(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(work, noise(12))
    assert cli("probe", "--kinds", "mass_mean") == 0
    assert "left out" not in capsys.readouterr().err


def test_quiet_says_nothing_where_nothing_is_wrong(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(work, noise(12))
    assert cli("probe", "--kinds", "mlp,mass_mean", "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_layers_and_site_are_chosen(cli: Cli, work: Path) -> None:
    published(work, noise(12, layers=(0, 1, 2, 3)), site="mlp_act")
    assert cli("probe", "--layers", "75%,0", "--site", "mlp_act", *FAST) == 0
    assert {row["layer"] for row in table(newest(work))} == {"0", "3"}
    assert Run(newest(work)).start["resolved"]["layers"] == [0, 3]
    assert Run(newest(work)).start["resolved"]["site"] == "mlp_act"


def test_kinds_are_taken_in_any_order_and_once(cli: Cli, work: Path) -> None:
    published(work, noise(12))
    assert cli("probe", "--kinds", "mass_mean,logistic,mass_mean", *SMALL) == 0
    kinds = list(dict.fromkeys(row["kind"] for row in table(newest(work))))
    assert kinds == ["logistic", "mass_mean", *CONTROLS]


def test_a_captured_model_is_probed(cli: Cli, work: Path, tiny_model: Path) -> None:
    assert cli(
        "capture", "--model", tiny_model, "--site", "resid_post,mlp_act", "--tasks", "qa,math",
        "--max-tokens", 800, *SMALL,
    ) == 0  # fmt: skip
    assert cli(
        "probe", "--site", "resid_post", "--kinds", "logistic,attention", "--pool", "mean",
        "--seeds", 3, *SMALL,
    ) == 0  # fmt: skip
    rows = table(newest(work))
    assert len(rows) == 3 * (2 + len(CONTROLS)) * 3
    assert_rows_agree_with_predictions(newest(work))
    found = [float(row["auroc"]) for row in rows if row["kind"] == "logistic"]
    assert fmean(found) > 0.9  # arithmetic and questions differ already in their tokens


def test_the_same_settings_give_the_same_bytes_and_another_seed_other_splits(
    cli: Cli, work: Path, data: Sample
) -> None:
    published(work, data)
    kinds = ["--kinds", "logistic,mlp,attention", *SMALL]
    for seed in (0, 0, 1):
        assert cli("probe", "--seed", seed, *kinds) == 0
    _, first, second, third = (run.path for run in list_runs(work / "artifacts"))
    assert outputs(first) == outputs(second)
    tested = [{r["document_id"] for r in table(run, "predictions.csv")} for run in (first, third)]
    assert tested[0] != tested[1]


def test_a_seed_is_judged_alike_alone_and_among_others(cli: Cli, work: Path, data: Sample) -> None:
    published(work, data)
    for arguments in (["--seed", 1], ["--seeds", 3]):
        assert cli("probe", "--kinds", "logistic,mass_mean", *arguments, *SMALL) == 0
    _, alone, among = (run.path for run in list_runs(work / "artifacts"))
    assert table(alone) == [row for row in table(among) if row["seed"] == "1"]


def test_a_changed_table_is_another_input(cli: Cli, work: Path) -> None:
    data = noise(12)
    published(work, data)
    for labels in (["x", "y"] * 6, ["x"] * 6 + ["y"] * 6):
        path = document_labels(work / "labels.csv", data, labels)
        assert cli("probe", "--labels", path.name, *FAST) == 0
    _, one, two = list_runs(work / "artifacts")
    hashes = [run.start["resolved"]["labels_sha256"] for run in (one, two)]
    assert hashes[0] != hashes[1]
    assert one.start["config"] == two.start["config"]

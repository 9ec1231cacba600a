"""The sae-train stage through the real command line: what lies in a run, and what is true of it."""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts import load_acts
from sdlms.cli import main
from sdlms.runs.reading import Run, list_runs
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.sae.measuring import COLUMNS
from sdlms.sae.pupil import CURVE_COLUMNS
from sdlms.sae.recipe import COEFFICIENTS, KINDS
from sdlms.storage.latents import LatentsMember, LatentsReader
from tests.acts.samples import SITE
from tests.stages.probe_runs import LAYERS, Cli, newest, outputs, table
from tests.stages.sae_train_runs import (
    QUIET,
    SHORT,
    by_lens,
    by_split,
    captured,
    finite_weights,
    fvu_and_l0,
    members,
    planted,
    rows_of,
    sparse_data,
)

BATCH = ["--batch-size", 64]


class Whole:
    """A capture of an embedded model, and the sweep that was trained on it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        artifacts = ["--artifacts", work / "artifacts"]
        tasks = ["--tasks", "qa,math", "--max-tokens", 2500, "--site", SITE]
        self._run("capture", "--model", "sdlms-small", *tasks, *QUIET, *artifacts)
        self.capture = Run(newest(work))
        sweep = ["--arch", "topk", "--k", "4,12", "--tokens", 8000, *BATCH, "--seeds", 2]
        names = ["--acts", self.capture.path, "--layers", "1,2", "--width", 96, "--seed", 3]
        self.words = ["sae-train", *names, *sweep, "--threads", 1, *artifacts]
        self._run(*self.words)
        self.run = Run(newest(work))

    def _run(self, *words: object) -> None:
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        assert not stopped.value.code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    yield Whole(tmp_path_factory.mktemp("whole"))


def test_a_run_says_what_it_was_made_from(whole: Whole, cli: Cli) -> None:
    run, resolved = whole.run, whole.run.start["resolved"]
    assert [record["run"] for record in run.all_of("input")] == [whole.capture.name]
    assert (resolved["acts"], resolved["layers"]) == (whole.capture.name, [1, 2])
    assert (resolved["d_in"], resolved["width"], resolved["expansion"]) == (48, 96, 2.0)
    assert resolved["members"] == ["k_4_seed3", "k_4_seed4", "k_12_seed3", "k_12_seed4"]
    assert resolved["steps"] == 125
    assert run.start["decided"]["trainer"] == "sdlms"
    assert run.records[-1]["tokens"] == 8000  # of 5,000: several passes
    assert cli("runs", "verify", run.path) == 0


def test_every_member_is_in_the_table_and_in_its_folder(whole: Whole) -> None:
    rows = table(whole.run.path, "sae.csv")
    assert tuple(rows[0]) == COLUMNS
    names = whole.run.start["resolved"]["members"]
    assert [(r["layer"], r["member"]) for r in rows] == [(n, m) for n in "12" for m in names]
    listed = set(outputs(whole.run.path))
    for row, folder in members(whole.run.path):
        inside = {str(path.relative_to(whole.run.path)) for path in folder.iterdir()}
        assert len(inside) == 3 and inside <= listed
        assert (row["seed"], row["coefficient"]) == (folder.name[-1], f"{folder.name[2:-6]}.0")
        config = json.loads((folder / "cfg.json").read_text())["metadata"]
        assert (config["model_name"], config["capture_run"]) == ("sdlms-small", whole.capture.name)
        assert (config["site"], config["layer"]) == (SITE, int(row["layer"]))
        assert config["training"]["seed"] == int(row["seed"])
    assert {"sae.csv", "latents.h5", "documents.csv"} < listed


def test_no_document_is_on_both_sides(whole: Whole) -> None:
    splits = by_split(whole.run.path)
    ids = [*splits["train"], *splits["validation"]]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(load_acts(whole.capture).document_ids)
    assert set(splits["measured"]) <= set(splits["validation"])
    tasks = {row["task"] for row in table(whole.run.path, "documents.csv")}
    assert tasks == {"qa", "math"}


def test_the_table_says_what_the_files_do_by_sae_lens(whole: Whole) -> None:
    """On the documents that were held out, with the mean of those that were not."""
    splits = by_split(whole.run.path)
    layers, held_out = rows_of(whole.capture, SITE, splits["measured"])
    _, training = rows_of(whole.capture, SITE, splits["train"])
    for row, folder in members(whole.run.path):
        index = layers.index(int(row["layer"]))
        fvu, l0 = fvu_and_l0(folder, held_out.acts[index], training.acts[index])
        assert float(row["fvu"]) == pytest.approx(fvu, rel=1e-5)
        assert float(row["explained_variance"]) == pytest.approx(1 - fvu, abs=1e-5)
        assert float(row["l0"]) == pytest.approx(l0, rel=1e-5)
        assert int(row["n_tokens"]) == held_out.acts.shape[1]
        assert float(row["fvu_low"]) <= fvu <= float(row["fvu_high"])
        assert 0 < float(row["stability"]) <= 1


def test_cross_entropy_is_measured_with_the_model(whole: Whole) -> None:
    for row in table(whole.run.path, "sae.csv"):
        clean, sae, zero = (float(row[name]) for name in ("ce_clean", "ce_sae", "ce_zero"))
        assert clean < sae < zero
        recovered = (zero - sae) / (zero - clean)
        assert float(row["ce_recovered"]) == pytest.approx(recovered, rel=1e-9)
        assert float(row["ce_recovered_low"]) <= recovered <= float(row["ce_recovered_high"])
        assert int(row["ce_documents"]) > 1


def test_latents_are_counted_as_sae_lens_finds_them(whole: Whole) -> None:
    ids = by_split(whole.run.path)["measured"]
    layers, held_out = rows_of(whole.capture, SITE, ids)
    with LatentsReader(whole.run.path / "latents.h5") as reader:
        assert sorted(reader.document_ids()) == sorted(ids)
        for row, folder in members(whole.run.path):
            member = LatentsMember(SITE, int(row["layer"]), row["member"])
            counts = reader.array(member, "firing_count")
            latents, _ = by_lens(folder, held_out.acts[layers.index(int(row["layer"]))])
            expected = (latents > 0).sum(dim=0).numpy()
            assert np.abs(counts - expected).max() <= 1  # a sum near 0 may round either way
            assert counts.sum() / held_out.acts.shape[1] == pytest.approx(float(row["l0"]))
            assert (counts == 0).sum() == int(row["n_dead"])
            assert np.array_equal(reader.array(member, "document_counts").sum(axis=0), counts)
            assert np.array_equal(reader.array(member, "task_counts").sum(axis=0), counts)


def test_a_member_of_each_layer_is_taken(whole: Whole) -> None:
    events = whole.run.all_of("selected")
    assert [event["layer"] for event in events] == [1, 2]
    rows = table(whole.run.path, "sae.csv")
    taken = [(r["layer"], r["member"]) for r in rows if r["selected"] == "1"]
    assert taken == [(str(event["layer"]), event["member"]) for event in events]
    for event in events:
        assert event["rule"] == "knee"
        assert event["reason"]
        assert [point["coefficient"] for point in event["front"]] == [4.0, 12.0]
        for point in event["front"]:
            key = (str(event["layer"]), str(point["coefficient"]))
            own = [r for r in rows if (r["layer"], r["coefficient"]) == key]
            assert point["fvu"] == pytest.approx(np.mean([float(r["fvu"]) for r in own]))


def test_curves_are_written(whole: Whole) -> None:
    for row, folder in members(whole.run.path):
        curve = table(folder, "reconstruction_loss.csv")
        assert tuple(curve[0]) == CURVE_COLUMNS
        assert curve[-1]["step"] == row["steps"]
        losses = {int(each["step"]): float(each["validation_loss"]) for each in curve}
        assert losses[int(row["best_step"])] == min(losses.values())
        assert float(curve[-1]["validation_loss"]) < float(curve[0]["validation_loss"])


def test_the_same_command_gives_the_same_bytes(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    whole._run(*whole.words)
    again = Run(newest(whole.work))
    assert again.name != whole.run.name
    assert outputs(again.path) == outputs(whole.run.path)
    streams = capsys.readouterr()
    assert streams.out.splitlines()[-1].endswith(again.name)
    log = streams.err
    assert f"{whole.capture.name}: resid_post at layers 1, 2; " in log
    assert "8 members (topk, 48 units, 96 latents), 125 steps of 64 tokens" in log
    assert "steps by sdlms" in log
    assert "layer 2: k_" in log


@pytest.mark.parametrize(("kind", "trainer"), [(k, "auto") for k in KINDS] + [("standard", "sae-lens")])  # fmt: skip  # noqa: E501
def test_every_architecture(cli: Cli, work: Path, kind: str, trainer: str) -> None:
    capture = planted(work)
    flag = COEFFICIENTS[kind]  # type: ignore[index]
    sweep = [f"--{flag}", {"l1": 0.3, "k": 3, "l0": 0.05}[flag], "--trainer", trainer]
    words = ["--arch", kind, *sweep, "--batch-size", 64, "--tokens", 2560, "--lr", 0.005]
    assert cli("sae-train", "--acts", "latest", *words, "--ce-tokens", 0, *QUIET) == 0
    run = newest(work)
    own = trainer == "auto" and kind in ("standard", "topk")
    assert Run(run).start["decided"]["trainer"] == (
        "sdlms" if own else f"sae-lens {version('sae-lens')}"
    )
    splits = by_split(run)
    layers, held_out = rows_of(capture, SITE, splits["measured"])
    _, training = rows_of(capture, SITE, splits["train"])
    found = members(run)
    assert len(found) == 2 * len(LAYERS)
    for row, folder in found:
        index = layers.index(int(row["layer"]))
        assert loaded_by_lens(folder).cfg.architecture() == row["architecture"]
        fvu, l0 = fvu_and_l0(folder, held_out.acts[index], training.acts[index])
        assert float(row["fvu"]) == pytest.approx(fvu, rel=1e-5)
        assert float(row["l0"]) == pytest.approx(l0, rel=1e-5)
        assert fvu < 1
        assert (row["ce_recovered"], row["reason"]) == ("nan", "cross-entropy was left out")
    assert cli("runs", "verify", run.name) == 0


def test_without_a_capture_a_model_is_run(cli: Cli, work: Path, tiny_model: Path) -> None:
    """Its activations are those of a capture of the same documents."""
    words = [*BATCH, "--tokens", 1280, "--l1", 0.5, "--dtype", "float32", *QUIET]
    source = ["--model", tiny_model, "--tasks", "qa"]
    assert cli("sae-train", *source, "--layers", "50%", *words, "--ce-tokens", 200) == 0
    run = newest(work)
    resolved = Run(run).start["resolved"]
    assert (resolved["acts"], resolved["layers"], resolved["site"]) == (None, [2], SITE)
    assert [task["task"] for task in resolved["data"]] == ["qa"]
    assert not Run(run).all_of("input")
    store = ["--store-dtype", "bfloat16"]
    capture = ["capture", *source, "--layers", "50%", *store, "--max-tokens", 60000]
    assert cli(*capture, "--site", SITE, "--dtype", "float32", *QUIET) == 0
    splits = by_split(run)
    assert "unused" in splits
    _, held_out = rows_of(Run(newest(work)), SITE, splits["measured"])
    _, training = rows_of(Run(newest(work)), SITE, splits["train"])
    for row, folder in members(run):
        assert int(row["n_tokens"]) == held_out.acts.shape[1]
        fvu, l0 = fvu_and_l0(folder, held_out.acts[0], training.acts[0])
        assert float(row["fvu"]) == pytest.approx(fvu, rel=1e-3)
        assert float(row["l0"]) == pytest.approx(l0, rel=1e-3)
        assert row["ce_recovered"] != "" and int(row["ce_tokens"]) <= 200


def test_texts_of_ones_own(cli: Cli, work: Path, tiny_model: Path) -> None:
    texts = [{"body": f"Text {i} tells of {i * i} sheep and {'many ' * (i % 7)}more."} for i in range(60)]  # fmt: skip  # noqa: E501
    (work / "mine.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    source = ["--model", tiny_model, "--texts", "mine.jsonl", "--field", "body", "--layers", "1,2"]
    assert cli("sae-train", *source, *SHORT, "--ce-tokens", 100) == 0
    resolved = Run(newest(work)).start["resolved"]
    assert [task["task"] for task in resolved["data"]] == ["mine"]
    splits = by_split(newest(work))
    assert len(splits["validation"]) == 12
    assert sum(len(splits.get(name, [])) for name in ("train", "unused")) == 48


def test_neurons_and_their_expansion(cli: Cli, work: Path, tiny_model: Path) -> None:
    """It multiplies the model's hidden size, whatever the site."""
    captured(cli, work, tiny_model, "--site", "mlp_act", "--layers", 1)
    words = ["--acts", "latest", *SHORT, "--ce-tokens", 300]
    assert cli("sae-train", *words, "--expansion", 2) == 0
    resolved = Run(newest(work)).start["resolved"]
    assert (resolved["d_in"], resolved["width"], resolved["expansion"]) == (64, 48, 2.0)
    assert all(int(row["ce_tokens"]) > 0 for row in table(newest(work), "sae.csv"))
    assert cli("sae-train", *words, "--width", 36) == 0
    resolved = Run(newest(work)).start["resolved"]
    assert (resolved["d_in"], resolved["width"], resolved["expansion"]) == (64, 36, 1.5)


@pytest.mark.parametrize(
    ("select", "better"),
    [("l0=2", "l1_3"), ("l0=30", "l1_0.1"), ("fvu=0.0001", "l1_0.1"), ("fvu=0.999", "l1_3")],
)
def test_a_rule_takes_by_l0_or_fvu(cli: Cli, work: Path, select: str, better: str) -> None:
    planted(work)
    words = ["--batch-size", 64, "--tokens", 6400, "--lr", 0.01, "--l1", "3,0.1", "--ce-tokens", 0]
    assert cli("sae-train", "--acts", "latest", *words, "--select", select, *QUIET) == 0
    run = Run(newest(work))
    assert [event["rule"] for event in run.all_of("selected")] == [select] * 2
    taken = [row["member"] for row in table(run.path, "sae.csv") if row["selected"] == "1"]
    assert taken == [f"{better}_seed0"] * 2


def test_a_rule_takes_by_cross_entropy(cli: Cli, whole: Whole, work: Path) -> None:
    words = ["--batch-size", 128, "--tokens", 2560, "--l1", "0.1,100", "--seeds", 1, *QUIET]
    assert cli("sae-train", "--acts", whole.capture.path, *words, "--select", "ce=0.1") == 0
    rows = table(newest(work), "sae.csv")
    for layer in ("1", "2"):
        own = {r["coefficient"]: r for r in rows if r["layer"] == layer}
        enough = [c for c in own if float(own[c]["ce_recovered"]) >= 0.1]
        (taken,) = [c for c in own if own[c]["selected"] == "1"]
        sparsest = min(enough, key=lambda c: float(own[c]["l0"]))
        assert taken == sparsest
        assert "no second seed" in own[taken]["reason"]


def test_what_is_given_up_early_is_marked_and_never_taken(cli: Cli, work: Path) -> None:
    planted(work)
    words = ["--batch-size", 64, "--tokens", 5120, "--l1", "0.1,0.3,1,3", "--ce-tokens", 0]
    assert cli("sae-train", "--acts", "latest", *words, "--screen", *QUIET) == 0
    rows = table(newest(work), "sae.csv")
    for layer in map(str, LAYERS):
        own = [row for row in rows if row["layer"] == layer]
        screened = [row for row in own if row["screened"] == "1"]
        assert len(screened) == 6  # two of four, then one of two, of two seeds each
        assert {row["ended"] for row in screened} == {"screened"}
        assert sorted({int(row["steps"]) for row in screened}) == [16, 40]
        (taken,) = [row for row in own if row["selected"] == "1"]
        assert taken["screened"] == "0" and taken["steps"] == "80"
    for event in Run(newest(work)).all_of("selected"):
        assert sum(point["screened"] for point in event["front"]) == 3


def test_patience_ends_a_member_and_keeps_its_best(cli: Cli, work: Path) -> None:
    planted(work)
    words = [*BATCH, "--tokens", 64 * 400, "--l1", 0.3, "--ce-tokens", 0, "--lr", 0.02]
    assert cli("sae-train", "--acts", "latest", *words, "--patience", 1, *QUIET) == 0
    rows = table(newest(work), "sae.csv")
    assert any(row["ended"] == "no progress in 1 evaluations" for row in rows)
    for row, folder in members(newest(work)):
        curve = table(folder, "reconstruction_loss.csv")
        assert int(row["best_step"]) <= int(curve[-1]["step"]) == int(row["steps"])
    assert finite_weights(newest(work) / "sae")


def test_a_hidden_layer_that_nobody_asked_for_is_not_read(cli: Cli, work: Path) -> None:
    data = sparse_data()
    data.acts[3][:] = torch.nan
    planted(work, data)
    assert cli("sae-train", "--acts", "latest", "--layers", "25%", *SHORT) == 0
    assert {row["layer"] for row in table(newest(work), "sae.csv")} == {"1"}
    assert len(list_runs(work / "artifacts")) == 2


def test_more_than_the_memory_holds_is_refused_before_anything_is_written(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(work)
    assert cli("sae-train", "--acts", "latest", "--width", 10**12, *SHORT) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "training 4 members takes" in line and "Name fewer --layers" in line
    assert len(list_runs(work / "artifacts", partial=True)) == 1

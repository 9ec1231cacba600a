"""What sae-train refuses: one line, exit code 2, and no run where it had not begun."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdlms.runs.reading import Run
from sdlms.sae import training
from tests.acts.samples import Sample
from tests.stages.predictions import noted_predictions
from tests.stages.probe_runs import Cli, newest, table
from tests.stages.sae_train_runs import (
    QUIET,
    SHORT,
    SHORT_K,
    captured,
    finite_weights,
    planted,
    sparse_data,
    trained_runs,
)

Streams = pytest.CaptureFixture[str]


TALK = ("are longer than the context", "principal components leave less unexplained")


def assert_one_line(code: int, err: str, message: str) -> None:
    """One line; behind one on what was cut, and one on how to go on where a run had begun."""
    assert code == 2, err
    *before, line = err.splitlines()
    assert line.startswith("sdlms: ")
    assert message in line
    others = [each for each in before if not any(talk in each for talk in TALK)]
    assert len(others) <= 1
    assert all("is unfinished: --resume continues it" in each for each in others)


def assert_refused(work: Path, code: int, err: str, message: str) -> None:
    """One line, and no run."""
    assert_one_line(code, err, message)
    assert err.count("\n") == 1
    assert not trained_runs(work)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "topc"], "--arch: expected one of standard, topk"),
        (["--select", "best"], "--select 'best': expected knee, l0=32, fvu=0.1 or ce=0.9."),
        (["--select", "l0=0"], "--select l0=0: the number must be above 0."),
        (["--select", "fvu=1.5"], "the number must be between 0 and 1."),
        (["--select", "ce=0.9"], "needs cross-entropy, which --ce-tokens 0 does not measure"),
        (["--select", "ce=0.9", "--screen", "--ce-tokens", "9"], "which --screen does not measure"),
        (["--l1", "0"], "--l1: values must differ and be above 0, got 0."),
        (["--l1", "-1,2"], "--l1: values must differ and be above 0, got -1, 2."),
        (["--l1", "1,1"], "--l1: values must differ"),
        (["--l1", "0.3,0.30000001"], "--l1: values must differ"),
        (["--l1", "nan"], "--l1: expected a number, got 'nan'."),
        (["--l1", "inf"], "--l1: expected a number, got 'inf'."),
        (["--l1", "much"], "--l1"),
        (["--k", "4"], "--k is not for --arch standard; its sweep is over --l1."),
        (["--arch", "topk"], "--l1 is not for --arch topk; its sweep is over --k."),
        (["--arch", "jumprelu"], "--l1 is not for --arch jumprelu; its sweep is over --l0."),
        (["--model", "sdlms-small"], "is trained on alone: leave out --model, or --acts."),
        (["--revision", "main"], "leave out --revision, or --acts."),
        (["--tasks", "qa"], "leave out --tasks, or --acts."),
        (["--texts", "a.txt"], "leave out --texts, or --acts."),
        (["--layers", "2"], "layer 2 is not there; "),
        (["--layers", "2"], "holds layers 1, 3."),
        (["--layers", "7"], "the model has layers 0 to 3"),
        (["--layers", "last"], "'last' is neither an index"),
        (["--site", "mlp_act"], "mlp_act"),
        (["--site", "middle"], "--site"),
        (["--tokens", 31], "--tokens must be >= 32, got 31."),
        (["--tokens", 0], "--tokens must be >= 1, got 0."),
        (["--batch-size", 0], "--batch-size must be >= 1, got 0."),
        (["--seeds", 0], "--seeds must be >= 1, got 0."),
        (["--patience", -1], "--patience must be >= 0, got -1."),
        (["--width", 0], "--width must be >= 1, got 0."),
        (["--expansion", 0], "--expansion must be above 0, got 0."),
        (["--expansion", "nan"], "--expansion: expected a number, got 'nan'."),
        (["--expansion", "inf"], "--expansion: expected a number, got 'inf'."),
        (["--expansion", 0.01], "--expansion 0.01"),
        (["--lr", -1], "--lr must be above 0, got -1."),
        (["--lr", "nan"], "--lr: expected a number, got 'nan'."),
        (["--dtype", "float16"], "--dtype float16: gradients of an SAE leave its range."),
        (["--device", "cuda:77"], "this machine has"),
        (["--acts", "nosuch"], "no run 'nosuch' under artifacts/."),
        (["--artifacts", "empty"], "no completed 'capture' run under empty/"),
        (["--batch-size", 2048, "--tokens", 4096], "the training documents have 264 tokens only"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(
    cli: Cli, work: Path, capsys: Streams, words: list[object], message: str
) -> None:
    planted(work)
    code = cli("sae-train", "--acts", "latest", *SHORT, *words)
    assert_refused(work, code, capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arch", "topk", "--k", "3,100"], "--k 100: there are 64 latents only."),
        (["--arch", "topk", "--k", "9", "--width", 8], "--k 9: there are 8 latents only."),
        (["--arch", "batchtopk", "--k", "65"], "--k 65: there are 64 latents only."),
        (["--arch", "topk", "--k", "2.5"], "--k"),
        (["--arch", "topk", "--k", "0"], "--k: values must differ and be above 0, got 0."),
    ],
)
def test_as_many_active_latents_as_there_are(
    cli: Cli, work: Path, capsys: Streams, words: list[object], message: str
) -> None:
    planted(work)
    code = cli("sae-train", "--acts", "latest", *SHORT_K, *words)
    assert_refused(work, code, capsys.readouterr().err, message)


def test_a_run_of_another_stage(cli: Cli, work: Path, capsys: Streams) -> None:
    planted(work)
    assert cli("sae-train", "--acts", "latest", *SHORT) == 0
    run = newest(work)
    capsys.readouterr()
    code = cli("sae-train", "--acts", run.name, *SHORT)
    assert_one_line(code, capsys.readouterr().err, f"{run.name} is a 'sae-train' run; ")
    assert len(trained_runs(work)) == 1


def test_a_capture_of_several_sites(
    cli: Cli, work: Path, capsys: Streams, tiny_model: Path
) -> None:
    captured(cli, work, tiny_model, "--site", "mlp_act,resid_post")
    capsys.readouterr()
    code = cli("sae-train", "--acts", "latest", *SHORT)
    assert_refused(work, code, capsys.readouterr().err, "mlp_act, resid_post")


def test_a_capture_without_activations(
    cli: Cli, work: Path, capsys: Streams, tiny_model: Path
) -> None:
    captured(cli, work, tiny_model, "--no-save")
    capsys.readouterr()
    code = cli("sae-train", "--acts", "latest", *SHORT)
    message = "holds no activations.h5. Capture without --no-save"
    assert_refused(work, code, capsys.readouterr().err, message)


def test_an_encoder_has_no_cross_entropy(
    cli: Cli, work: Path, capsys: Streams, architecture_model: Callable[[str], Path]
) -> None:
    captured(cli, work, architecture_model("bert"))
    capsys.readouterr()
    words = ["--acts", "latest", "--batch-size", 64, "--tokens", 640, "--l1", 1, *QUIET]
    code = cli("sae-train", *words)
    err = capsys.readouterr().err
    assert_refused(work, code, err, "'bert' is an encoder: it predicts no next token")
    assert "--ce-tokens 0" in err
    assert cli("sae-train", *words, "--ce-tokens", 0) == 0
    assert {row["ce_recovered"] for row in table(newest(work), "sae.csv")} == {"nan"}
    words = ["--model", architecture_model("bert"), "--tasks", "qa", *words[2:], "--layers", 1]
    code = cli("sae-train", *words)
    assert_one_line(code, capsys.readouterr().err, "--ce-tokens 0")
    assert cli("sae-train", *words, "--ce-tokens", 0) == 0


def test_a_model_that_is_gone_or_changed(
    cli: Cli, work: Path, capsys: Streams, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, work / "model")
    captured(cli, work, "model", "--site", "mlp_act")
    captured(cli, work, "model", "--site", "resid_post")
    capsys.readouterr()
    words = ["--acts", "latest", "--batch-size", 64, "--tokens", 640, "--l1", 1, *QUIET]
    weights = work / "model/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    code = cli("sae-train", *words)
    assert_one_line(code, capsys.readouterr().err, "changed since the run (sha256 differs)")
    assert all(run.status == "failed" for run in trained_runs(work))
    assert cli("sae-train", *words, "--ce-tokens", 0) == 0
    capsys.readouterr()
    (work / "model").rename(work / "elsewhere")
    n_runs = len(trained_runs(work))
    code = cli("sae-train", *words)
    err = capsys.readouterr().err
    assert_one_line(code, err, f"its folder {work / 'model'} is gone. Restore it")
    assert "--ce-tokens 0" in err
    assert len(trained_runs(work)) == n_runs
    assert cli("sae-train", *words, "--ce-tokens", 0) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("document", range(4))
def test_what_is_no_number_is_named(
    cli: Cli, work: Path, capsys: Streams, value: float, document: int
) -> None:
    """Wherever it is: in what is learned from, and in what is measured on."""
    data = sparse_data()
    data.acts[3][data.rows.offsets[document] + 2, 1] = value
    planted(work, data)
    code = cli("sae-train", "--acts", "latest", *SHORT)
    name = data.rows.document_ids[document]
    message = f"an activation of document {name}, layer 3, is NaN or infinite."
    assert_one_line(code, capsys.readouterr().err, message)
    (partial,) = trained_runs(work)
    assert partial.status == "failed"
    assert not (partial.path / "sae").exists()
    assert cli("sae-train", "--acts", "latest", "--layers", 1, *SHORT) == 0


def test_what_is_no_number_at_a_skipped_token_is_not_read(cli: Cli, work: Path) -> None:
    data = sparse_data()
    for first in data.rows.offsets[:-1]:
        data.acts[3][first] = float("nan")
    planted(work, data)
    assert cli("sae-train", "--acts", "latest", *SHORT) == 0
    assert finite_weights(newest(work))


def test_activations_that_never_vary(cli: Cli, work: Path, capsys: Streams) -> None:
    data = sparse_data()
    data.acts[3][:] = 0.25
    planted(work, data)
    code = cli("sae-train", "--acts", "latest", *SHORT)
    message = "activations of layer 3 are the same at every token: there is nothing to learn."
    assert_one_line(code, capsys.readouterr().err, message)
    assert cli("sae-train", "--acts", "latest", "--layers", 1, *SHORT) == 0


@pytest.mark.parametrize("n_readable", [0, 1])
def test_too_few_documents(cli: Cli, work: Path, capsys: Streams, n_readable: int) -> None:
    data = sparse_data(length=64)
    mask = np.arange(data.rows.n_tokens) < n_readable * 64
    planted(work, Sample(data.acts, replace(data.rows, mask=mask.astype(np.uint8))))
    code = cli("sae-train", "--acts", "latest", *SHORT)
    assert_refused(work, code, capsys.readouterr().err, "at least two are needed")


def test_texts_that_are_none(cli: Cli, work: Path, capsys: Streams, tiny_model: Path) -> None:
    (work / "empty.txt").write_text("\n \n")
    (work / "one.jsonl").write_text('{"text": "A single document has no other to be measured."}\n')
    for name, message in (("empty.txt", "empty.txt"), ("one.jsonl", "at least two are needed")):
        code = cli("sae-train", "--model", tiny_model, "--texts", name, *SHORT)
        assert_refused(work, code, capsys.readouterr().err, message)
    code = cli("sae-train", "--texts", "one.jsonl", "--tasks", "qa", *SHORT)
    message = "Give one of them; `--tasks training` is the default."
    assert_refused(work, code, capsys.readouterr().err, message)
    code = cli("sae-train", "--model", work / "nowhere", *SHORT)
    assert_refused(work, code, capsys.readouterr().err, "nowhere")
    code = cli("sae-train", "--model", tiny_model, "--tasks", "nosuch", *SHORT)
    assert_refused(work, code, capsys.readouterr().err, "nosuch")


@pytest.mark.parametrize("arch", ["standard", "topk", "gated"])
def test_what_diverges_ends_in_one_line_and_leaves_no_broken_weights(
    cli: Cli, work: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch, arch: str
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    planted(work)
    words = SHORT_K if arch == "topk" else SHORT
    code = cli("sae-train", "--acts", "latest", *words, "--arch", arch, "--lr", 1e6)
    err = capsys.readouterr().err
    assert_one_line(code, err, "diverges: after ")
    assert "Lower --lr (now 1e+06) or raise --batch-size." in err
    (partial,) = trained_runs(work)
    assert partial.status == "failed"
    assert not (partial.path / "sae").exists()
    assert finite_weights(partial.path)


def test_too_little_disk(
    cli: Cli, work: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(work)
    usage = shutil.disk_usage(work)._replace(free=200_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code = cli("sae-train", "--acts", "latest", *SHORT)
    assert_refused(work, code, capsys.readouterr().err, "Name fewer --layers or coefficients.")
    assert cli("sae-train", "--acts", "latest", *SHORT, "--layers", 1, "--seeds", 1) == 0


def test_what_is_written_fits_into_what_was_predicted(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is a bound, or a full disk would end a run half-way."""
    predicted = noted_predictions(monkeypatch)
    planted(work)
    assert cli("sae-train", "--acts", "latest", *SHORT) == 0
    written = sum(record["bytes"] for record in Run(newest(work)).all_of("output"))
    assert written < predicted[0]

"""What the probe stage refuses: one line, exit code 2, and nothing under artifacts."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.runs.reading import Run, list_runs
from tests.acts.samples import Sample
from tests.stages.predictions import noted_predictions
from tests.stages.probe_runs import (
    Cli,
    document_labels,
    masked,
    newest,
    noise,
    published,
    table,
    write_labels,
)

Streams = pytest.CaptureFixture[str]
N_DOCUMENTS = 12
IDS = [f"{i:016x}" for i in range(N_DOCUMENTS)]
BOTH = ["x", "y"] * (N_DOCUMENTS // 2)
DOCUMENTS, TOKENS = "document_id,label", "document_id,token,label"


def assert_refused(work: Path, code: int, err: str, message: str) -> None:
    """One line, and no run but those that were there."""
    assert code == 2, err
    assert message in err
    assert err.startswith("sdlms: ")
    assert err.count("\n") == 1
    assert all(run.stage == "capture" for run in list_runs(work / "artifacts", partial=True))


def zipped(*columns: object) -> list[tuple[object, ...]]:
    return list(zip(IDS, *columns, strict=True))  # type: ignore[call-overload]


def test_seeds_may_test_on_every_document(cli: Cli, work: Path) -> None:
    published(work, noise(N_DOCUMENTS))
    assert cli("probe", "--kinds", "mlp", "--layers", 1, "--seeds", 25, "--quiet") == 0
    rows = [row for row in table(newest(work)) if row["kind"] == "mlp"]
    assert [int(row["seed"]) for row in rows] == list(range(25))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "logistc"], "--kinds: there is no 'logistc'. Did you mean 'logistic'?"),
        (["--kinds", "svm"], "Known: logistic, mlp"),
        (["--kinds", "all,mlp"], "'all' names every kind already"),
        (["--kinds", ""], "--kinds is empty"),
        (["--level", "token", "--kinds", "mlp,attention"], "attention judges whole documents"),
        (["--level", "word"], "--level: expected one of document, token"),
        (["--pool", "sum"], "--pool: expected one of mean, max, last"),
        (["--seeds", "0"], "--seeds must be >= 1, got 0."),
        (["--labels", "tasks"], "--labels tasks: neither 'task' nor a file that exists."),
        (["--labels", "."], "--labels .: neither"),
        (["--layers", "2"], "layer 2 is not there; "),
        (["--layers", "2"], "holds layers 1, 3."),
        (["--layers", "7"], "the model has layers 0 to 3"),
        (["--layers", "last"], "'last' is neither an index"),
        (["--site", "mlp_act"], "mlp_act"),
        (["--acts", "nosuch"], "no run 'nosuch' under artifacts/."),
        (["--artifacts", "empty", "--acts", "latest"], "no completed 'capture' run under empty/"),
        (["--device", "cuda:77"], "this machine has"),
        (["--labels", "absent.csv"], "neither 'task' nor a file that exists"),
    ],
)
def test_settings_that_cannot_be(
    cli: Cli, work: Path, capsys: Streams, arguments: list[str], message: str
) -> None:
    run = published(work, noise(N_DOCUMENTS))
    code = cli("probe", "--acts", run.name, *arguments)
    assert_refused(work, code, capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (zipped(["x"] * 12), DOCUMENTS, "all that is labelled is 'x'; two classes are needed"),
        (zipped(["x"] * 10 + ["y"] * 2), DOCUMENTS, "of class 'y' 2 documents can be read"),
        (zipped(["x"] * 11 + ["y"]), DOCUMENTS, "at least 3 are needed"),
        ([("q7", "x"), ("q8", "y")], DOCUMENTS, "none of its 2 rows matches a document"),
        ([("q7", "x")], DOCUMENTS, f"its ids look like 'q7', the run's like '{IDS[0]}'"),
        ([*zipped(BOTH), (IDS[3], "x")], DOCUMENTS, f"document {IDS[3]} has two labels"),
        (zipped(BOTH), "document,label", "no column 'document_id', but document, label. Did you "),
        (zipped(BOTH), "document_id,class", "no column 'label', but document_id, class."),
        ([], DOCUMENTS, "labels.csv holds no labels"),
        ([], "", "no column 'document_id', but none"),
        ([*zipped(BOTH)[:-1], (IDS[-1], "")], DOCUMENTS, "line 13: document_id or label is empty"),
        ([*zipped(BOTH)[:-1], (IDS[-1],)], DOCUMENTS, "line 13: document_id or label is empty"),
        (zipped([0] * 12, BOTH), TOKENS, "labels single tokens: add --level token"),
    ],
)
def test_tables_of_documents(
    cli: Cli, work: Path, capsys: Streams, rows: list[tuple[object, ...]], header: str, message: str
) -> None:
    published(work, noise(N_DOCUMENTS))
    write_labels(work / "labels.csv", rows, header)
    code = cli("probe", "--labels", "labels.csv", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (zipped(["one"] * 12, BOTH), "line 2: token 'one' is no index from 0"),
        (zipped(["-1"] * 12, BOTH), "token '-1' is no index"),
        (zipped(["1.0"] * 12, BOTH), "token '1.0' is no index"),
        (zipped(["٣"] * 12, BOTH), "token '٣' is no index"),
        (zipped(["9" * 5000] * 12, BOTH), "is no index"),
        (zipped([""] * 12, BOTH), "token '' is no index"),
        (zipped([0] * 11 + [5], BOTH), f"document {IDS[11]} has 5 tokens, there is no token 5"),
        ([*zipped([0] * 12, BOTH), (IDS[0], 0, "y")], f"document {IDS[0]}, token 0, has two label"),
        (zipped([0] * 12, ["x"] * 12), "two classes are needed"),
        (zipped([0] * 12, ["x"] * 10 + ["y"] * 2), "of class 'y' 2 documents can be read"),
        (zipped([0] * 9 + [2] * 3, ["x"] * 9 + ["y"] * 3), "of class 'y' no documents can be read"),
        (zipped([2, 0] * 6, BOTH), "of class 'x' no documents can be read"),
        (zipped([2] * 12, BOTH), "every labelled token is special or skipped"),
    ],
)
def test_tables_of_tokens(
    cli: Cli, work: Path, capsys: Streams, rows: list[tuple[object, ...]], message: str
) -> None:
    data = noise(N_DOCUMENTS)
    mask = np.ones(data.rows.n_tokens)
    if "read" in message or "special" in message:
        mask[data.rows.offsets[:-1] + 2] = 0
    published(work, masked(data, mask))
    write_labels(work / "labels.csv", rows, TOKENS)
    code = cli("probe", "--labels", "labels.csv", "--level", "token", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, message)


def test_a_table_that_is_no_text(cli: Cli, work: Path, capsys: Streams) -> None:
    published(work, noise(N_DOCUMENTS))
    (work / "labels.csv").write_bytes(DOCUMENTS.encode("utf-16"))
    code = cli("probe", "--labels", "labels.csv", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, "labels.csv is no CSV table in UTF-8")


def test_a_run_of_one_task(cli: Cli, work: Path, capsys: Streams) -> None:
    published(work, noise(N_DOCUMENTS, ("only",)))
    message = "all that is labelled is 'only'; two classes are needed. Capture another task"
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, message)


def test_a_task_of_two_documents(cli: Cli, work: Path, capsys: Streams) -> None:
    published(work, noise(5))
    message = "of class 'b' 2 documents can be read; at least 3 are needed"
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, message)


def test_a_class_of_documents_without_a_token_to_read(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    data = noise(N_DOCUMENTS)
    tasks = np.repeat(np.arange(N_DOCUMENTS) % 2, data.rows.lengths)
    published(work, masked(data, tasks == 0))
    message = "of class 'b' no documents can be read"
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, message)


def test_nothing_to_read_at_all(cli: Cli, work: Path, capsys: Streams) -> None:
    data = noise(N_DOCUMENTS)
    published(work, masked(data, np.zeros(data.rows.n_tokens)))
    message = "every labelled token is special or skipped"
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, message)


def test_classes_that_single_tokens_have_and_splits_that_miss_one(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    """`common` is on one token only of documents that all hold something rarer."""
    rows = [(IDS[i], 0, "rare" if i % 2 else "rarer still") for i in range(N_DOCUMENTS)]
    rows = [*rows[:6], *rows[7:], (IDS[0], 1, "common"), (IDS[1], 1, "common")]
    rows += [(IDS[i], 1, "common") for i in (2, 3, 4, 5, 7)]
    published(work, noise(N_DOCUMENTS))
    write_labels(work / "labels.csv", rows, TOKENS)
    codes = [
        cli("probe", "--labels", "labels.csv", "--level", "token", "--seed", seed, "--kinds",
            "mass_mean", "--quiet")
        for seed in range(6)
    ]  # fmt: skip
    err = capsys.readouterr().err
    assert 0 in codes and 2 in codes
    assert codes.count(2) == err.count("would test on are all of 'common', or none is. Label more")


def test_a_run_of_another_stage(cli: Cli, work: Path, capsys: Streams) -> None:
    published(work, noise(N_DOCUMENTS))
    assert cli("probe", "--kinds", "mass_mean", "--quiet") == 0
    probes = newest(work)
    capsys.readouterr()
    assert cli("probe", "--acts", probes.name, "--quiet") == 2
    err = capsys.readouterr().err
    wanted = "a 'capture' or 'sae-latents' run is needed here"
    assert err == f"sdlms: {probes.name} is a 'probe' run; {wanted}.\n"


def test_a_run_without_activations(cli: Cli, work: Path, capsys: Streams, tiny_model: Path) -> None:
    words = ["--model", tiny_model, "--tasks", "qa,math", "--max-tokens", 300, "--quiet"]
    assert cli("capture", *words, "--no-save") == 0
    capsys.readouterr()
    message = "holds no activations.h5. Capture without --no-save"
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, message)


def test_a_run_of_several_sites(cli: Cli, work: Path, capsys: Streams, tiny_model: Path) -> None:
    words = ["--model", tiny_model, "--tasks", "qa,math", "--max-tokens", 300, "--quiet"]
    assert cli("capture", *words, "--site", "mlp_act,resid_post") == 0
    capsys.readouterr()
    assert_refused(work, cli("probe", "--quiet"), capsys.readouterr().err, "mlp_act, resid_post")


def with_a_nan(data: Sample, layer: int, document: int, value: float) -> Sample:
    acts = {n: x.clone() for n, x in data.acts.items()}
    acts[layer][data.rows.offsets[document] + 1, 2] = value
    return Sample(acts, data.rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("level", ["document", "token"])
def test_what_is_no_number_is_found_before_any_fit(
    cli: Cli, work: Path, capsys: Streams, level: str, value: float
) -> None:
    published(work, with_a_nan(noise(N_DOCUMENTS), 3, 7, value))
    pool = ["--pool", "max"] if level == "document" else []
    assert cli("probe", "--level", level, *pool, "--quiet") == 2
    err = capsys.readouterr().err
    assert f"sdlms: layer 3, document {IDS[7]}: an activation is NaN or infinite." in err
    (partial,) = [r for r in list_runs(work / "artifacts", partial=True) if r.stage == "probe"]
    assert partial.status == "failed"
    assert not (partial.path / "probes").exists()
    assert cli("probe", "--layers", 1, "--kinds", "mass_mean", "--quiet") == 0


def test_what_is_no_number_in_a_document_without_label_is_not_read(cli: Cli, work: Path) -> None:
    data = with_a_nan(noise(N_DOCUMENTS), 3, 7, float("nan"))
    published(work, data)
    rows = [row for i, row in enumerate(zipped(BOTH)) if i != 7]
    write_labels(work / "labels.csv", rows, DOCUMENTS)
    assert cli("probe", "--labels", "labels.csv", "--kinds", "logistic,mlp,attention") == 0


def test_what_is_no_number_at_a_skipped_token_is_not_read(cli: Cli, work: Path) -> None:
    data = with_a_nan(noise(N_DOCUMENTS), 3, 7, float("nan"))
    mask = np.ones(data.rows.n_tokens)
    mask[data.rows.offsets[7] + 1] = 0
    published(work, masked(data, mask))
    for level in ("document", "token"):
        assert cli("probe", "--level", level, "--quiet") == 0
    assert not any("nan" in row for row in (newest(work) / "probe.csv").read_text().splitlines())


def test_too_little_disk(
    cli: Cli, work: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    published(work, noise(N_DOCUMENTS))
    usage = shutil.disk_usage(work)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code = cli("probe", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, "Name fewer --layers or --kinds.")
    assert cli("probe", "--kinds", "mass_mean", "--quiet") == 0


def test_what_is_written_fits_into_what_was_predicted(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction is a bound, or a full disk would end a run half-way."""
    predicted = noted_predictions(monkeypatch)
    data = noise(30)
    published(work, data)
    document_labels(work / "labels.csv", data, ["a label of some length", "b"] * 15)
    assert cli("probe", "--labels", "labels.csv", "--seeds", 2, "--quiet") == 0
    written = sum(record["bytes"] for record in Run(newest(work)).all_of("output"))
    assert written < predicted[0]

"""`sdlms sae-latents` through the real command line: the latents are those of the autoencoders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.acts import load_acts
from sdlms.runs.reading import Run, list_runs
from sdlms.sae import encoding
from tests.acts.samples import SITE, Sample
from tests.stages.probe_runs import (
    LAYERS,
    SMALL,
    Cli,
    masked,
    newest,
    noise,
    outputs,
    published,
    table,
)
from tests.stages.sae_runs import (
    OTHER,
    SELECTED,
    WIDTH,
    of_member,
    random_dictionary,
    sae_trained,
    write_dictionary,
)

Streams = pytest.CaptureFixture[str]
KILLING = Path(__file__).with_name("killing_stages.py")
N_DOCUMENTS = 12


def data() -> Sample:
    """Some tokens have mask 0."""
    found = noise(N_DOCUMENTS)
    return masked(found, np.arange(found.rows.n_tokens) % 4 > 0)


def latents_of(sample: Sample, layer: int, member: str = SELECTED) -> Tensor:
    """`[row, latent]`."""
    return of_member(layer, member).encode(sample.acts[layer])


def rows_of(run: Path, sample: Sample, layer: int) -> Tensor:
    """`[row, latent]` as it is read back."""
    padded = load_acts(run).select_layers(layer).realize().tensor
    lengths = sample.rows.lengths.tolist()
    return torch.cat([row[:n] for row, n in zip(padded, lengths, strict=True)])


def test_latents_are_those_of_the_selected_members(cli: Cli, work: Path, capsys: Streams) -> None:
    sample = data()
    acts = published(work, sample)
    sae = sae_trained(work, acts)
    assert cli("sae-latents", *SMALL) == 0
    assert capsys.readouterr().out.strip() == str(newest(work).relative_to(work))
    run = Run(newest(work))
    assert (run.stage, {r["run"] for r in run.all_of("input")}) == (
        "sae-latents",
        {sae.name, acts.name},
    )
    assert run.start["resolved"]["model"] == acts.start["resolved"]["model"]
    assert [each["member"] for each in run.start["resolved"]["members"]] == [SELECTED] * 2
    found = load_acts(run)
    assert (found.dims, found.site, found.layers, found.n_units) == (
        "blsh",
        "sae_latents",
        LAYERS,
        WIDTH,
    )
    assert found.document_ids == sample.rows.document_ids
    assert torch.equal(found.mask, sample.padded_mask)
    for layer in LAYERS:
        expected = latents_of(sample, layer)
        assert 0 < expected.count_nonzero() < expected.numel() / 2
        torch.testing.assert_close(rows_of(run.path, sample, layer), expected, rtol=1e-6, atol=1e-6)
    assert cli("runs", "verify", run.name) == 0


def test_the_table_counts_what_statistics_read(cli: Cli, work: Path) -> None:
    sample = data()
    sae_trained(work, published(work, sample))
    assert cli("sae-latents", *SMALL) == 0
    kept = sample.rows.mask.astype(bool)
    rows = table(newest(work), "sae_latents.csv")
    assert [int(row["layer"]) for row in rows] == list(LAYERS)
    for row in rows:
        layer = int(row["layer"])
        acts, latents = sample.acts[layer][kept].double(), latents_of(sample, layer)[kept]
        decoded = of_member(layer, SELECTED).decode(latents).double()
        variance = ((acts - acts.mean(0)) ** 2).sum()
        active = (latents != 0).double()
        expected = {
            "width": WIDTH,
            "tokens": int(kept.sum()),
            "l0_mean": active.sum(1).mean(),
            "fired_fraction": active.any(0).double().mean(),
            "density": active.mean(),
            "fvu_own_mean": ((acts - decoded) ** 2).sum() / variance,
        }
        assert row["member"] == SELECTED
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(float(value), rel=1e-6), name
        assert float(row["fired_fraction"]) < 1  # the last latent never fires


def test_a_member_and_layers_may_be_named(cli: Cli, work: Path) -> None:
    sample = data()
    acts = published(work, sample)
    sae = sae_trained(work, None)
    words = ["--sae", sae.name, "--acts", "latest", "--member", OTHER, "--layers", "75%"]
    assert cli("sae-latents", *words, *SMALL) == 0
    (row,) = table(newest(work), "sae_latents.csv")
    assert (row["layer"], row["member"]) == ("3", OTHER)
    expected = latents_of(sample, 3, OTHER)
    torch.testing.assert_close(rows_of(newest(work), sample, 3), expected, rtol=1e-6, atol=1e-6)
    assert {r["run"] for r in Run(newest(work)).all_of("input")} == {sae.name, acts.name}


def test_the_folder_of_one_sae_is_read_too(cli: Cli, work: Path) -> None:
    sample = data()
    acts = published(work, sample)
    folder = write_dictionary(work / "mine", random_dictionary(6))
    words = ["--sae", "mine", "--layers", 3]
    assert cli("sae-latents", *words, "--acts", acts.name, *SMALL) == 0
    torch.testing.assert_close(
        rows_of(newest(work), sample, 3), random_dictionary(6).encode(sample.acts[3]),
        rtol=1e-6, atol=1e-6,
    )  # fmt: skip
    assert [row["member"] for row in table(newest(work), "sae_latents.csv")] == [folder.name]


def test_another_capture_of_the_model_and_controls_are_encoded(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    sae_trained(work, published(work, data()))
    control = published(work, noise(5))  # its header says that it is one
    assert cli("sae-latents", "--acts", control.name, "--threads", 1) == 0
    assert "activations of a control, not of the model itself: reinit" in capsys.readouterr().err
    assert load_acts(newest(work)).n_documents == 5
    assert load_acts(newest(work))._source.description.header.control == "reinit"


def test_captures_without_active_latents(cli: Cli, work: Path) -> None:
    """Of a silent dictionary every data set is empty; an empty document has no rows."""
    sample = noise(4)
    acts = published(work, sample)
    silent = random_dictionary(0)
    silent.tensors["b_enc"].fill_(-1e6)
    write_dictionary(work / "silent", silent)
    assert cli("sae-latents", "--sae", "silent", "--layers", 1, "--acts", acts.name, *SMALL) == 0
    assert not rows_of(newest(work), sample, 1).any()
    (row,) = table(newest(work), "sae_latents.csv")
    assert (row["l0_mean"], row["fired_fraction"]) == ("0.0", "0.0")
    assert float(row["fvu_own_mean"]) == pytest.approx(1, abs=0.2)  # b_dec alone


# Refused: one line, exit code 2, nothing left behind


def assert_refused(work: Path, code: int, err: str, message: str) -> None:
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("sdlms: ") and message in err
    assert all(run.stage != "sae-latents" for run in list_runs(work / "artifacts", partial=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "2"], "_untrained holds layers 1, 3."),
        (["--layers", "9"], "the model has layers 0 to 3"),
        (["--layers", "x"], "'x' is neither an index"),
        (
            ["--member", "best"],
            f"has no member 'best' at layer 1. Name one by --member: {SELECTED}",
        ),
        (["--site", "mlp_act"], f"_untrained has SAEs of {SITE}."),
        (["--sae", "nosuch"], "no run 'nosuch' under artifacts/."),
        (["--sae", "CAPTURE"], "is a 'capture' run; a 'sae-train' run is needed here."),
        (["--acts", "SAE"], "is a 'sae-train' run; a 'capture' run is needed here."),
        (["--device", "cuda:77"], "this machine has"),
    ],
)
def test_settings_that_cannot_be(
    cli: Cli, work: Path, capsys: Streams, arguments: list[str], message: str
) -> None:
    acts = published(work, data())
    names = {"CAPTURE": acts.name, "SAE": sae_trained(work, acts).name}
    code = cli("sae-latents", *[names.get(word, word) for word in arguments], "--quiet")
    assert_refused(work, code, capsys.readouterr().err, message)


def test_without_a_run_there_is_a_next_step(cli: Cli, work: Path, capsys: Streams) -> None:
    code = cli("sae-latents", "--quiet")
    message = "no completed 'sae-train' run under artifacts/. Make one: sdlms sae-train"
    assert_refused(work, code, capsys.readouterr().err, message)


def test_runs_that_do_not_belong_together(cli: Cli, work: Path, capsys: Streams) -> None:
    def refused(message: str, *words: object) -> None:
        code = cli("sae-latents", *words, "--quiet")
        assert_refused(work, code, capsys.readouterr().err, message)

    acts = published(work, data())
    alone = sae_trained(work, None)
    refused(f"{alone.name} was trained without a capture run: name one by --acts.")
    other = sae_trained(work, acts, model={"name": "other", "n_layers": 4})
    refused(f"{other.name} is of the model other, {acts.name} of tiny: their name differ")
    elsewhere = sae_trained(work, acts, sites=("mlp_act",))
    refused(f"{elsewhere.name} has SAEs of mlp_act, {acts.name} holds {SITE}. Capture that site")
    two = sae_trained(work, acts, sites=("mlp_act", SITE))
    refused(f"{two.name} has SAEs of mlp_act, {SITE}; choose one: --site mlp_act")
    deeper = sae_trained(work, acts, layers=(1, 2))
    refused(f"{deeper.name} has an SAE of layer 2, {acts.name} holds layers 1, 3.")
    uneven = sae_trained(work, acts, widths=(16, 32))
    refused("of layer 1 has 16 latents")
    assert cli("sae-latents", "--layers", 3, "--sae", uneven.name, *SMALL) == 0
    shutil.move(newest(work), work / "elsewhere")  # so that no run of the stage is left
    narrow = published(work, noise(4, n_units=4))
    refused(f"takes 5 units, the activations ({SITE}) have 4", "--layers", 3, "--acts", narrow.name)
    write_dictionary(work / "mine", random_dictionary(0))
    refused("name its activations by --acts", "--sae", "mine")
    refused("name its one layer by its index", "--sae", "mine", "--acts", acts.name)
    refused("leave out --member", "--sae", "mine", "--acts", acts.name, "--member", "x")


def test_the_capture_that_was_read_is_told_from_another(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    """By the hash of its record; a run that was removed is one line too."""
    acts = published(work, data())
    sae_trained(work, acts)
    meta = acts.path / "meta.jsonl"
    meta.chmod(0o644)
    lines = meta.read_text().splitlines(keepends=True)
    meta.write_text("".join([lines[0].replace('"seed": 0', '"seed": 1'), *lines[1:]]))
    code = cli("sae-latents", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, f"{acts.name} is not the run that")
    acts.path.chmod(0o755)
    shutil.rmtree(acts.path)
    code = cli("sae-latents", "--quiet")
    assert_refused(work, code, capsys.readouterr().err, f"no run '{acts.name}'")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_is_one_line_that_names_document_and_layer(
    cli: Cli, work: Path, capsys: Streams, value: float
) -> None:
    sample = data()
    sample.acts[3][sample.rows.offsets[7] + 1, 2] = value
    sae_trained(work, published(work, sample))
    assert cli("sae-latents", "--quiet") == 2
    err = capsys.readouterr().err
    name = sample.rows.document_ids[7]
    assert f"sdlms: layer 3, document {name}: an activation is NaN or infinite" in err


# Resuming


def test_an_interrupt_is_resumed_with_the_same_bytes(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae_trained(work, published(work, data()))
    monkeypatch.setattr("sdlms.acts.sources.BLOCK_TOKENS", 9)
    monkeypatch.setattr(encoding, "CHECKPOINT_SECONDS", 0.0)
    assert cli("sae-latents", *SMALL) == 0
    whole = newest(work)
    add, calls = encoding._Encoder.add, []

    def interrupted(self: encoding._Encoder, positions: np.ndarray, rows: Tensor) -> None:
        calls.append(self.layer)
        if len(calls) == 9:
            raise KeyboardInterrupt
        add(self, positions, rows)

    monkeypatch.setattr(encoding._Encoder, "add", interrupted)
    assert cli("sae-latents", *SMALL) == 130
    assert calls == [1] * 6 + [3] * 3
    assert cli("sae-latents", *SMALL, "--resume") == 0
    assert calls[9:] == [3] * 4  # what was done is not done again
    resumed = newest(work)
    assert Run(resumed).all_of("resume") and resumed != whole
    assert outputs(whole) == outputs(resumed)


def test_another_capture_of_the_same_name_is_not_continued_on(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    acts = published(work, data())
    sae_trained(work, None)
    words = ["--acts", acts.name, *SMALL]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(encoding._Encoder, "add", interrupted)
        assert cli("sae-latents", *words) == 130
    (begun,) = [run for run in list_runs(work / "artifacts", partial=True) if not run.complete]
    meta = acts.path / "meta.jsonl"
    meta.chmod(0o644)
    first, *rest = meta.read_text().splitlines(keepends=True)
    meta.write_text("".join([first.replace('"seed": 0', '"seed": 1'), *rest]))
    capsys.readouterr()
    assert cli("sae-latents", *words, "--resume") == 2
    *_, line = capsys.readouterr().err.splitlines()  # behind the hint of an unfinished run
    assert line.startswith(f"sdlms: {acts.name} is not the run that {begun.name} began with")
    assert cli("sae-latents", *words) == 0


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(work: Path) -> None:
    sae_trained(work, published(work, noise(8000)))  # five blocks
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, KILLING, "8", "sae-latents", *SMALL],
        cwd=work, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 8 and found["resumed"] >= 4 and found["runs"] == 9
    assert found["different"] == 0
    partial = list_runs(work / "artifacts", partial=True)
    assert all(run.complete or not run.start for run in partial)  # some before their first line


# What reads them


@pytest.mark.parametrize("level", ["document", "token"])
def test_probes_read_latents(cli: Cli, work: Path, level: str) -> None:
    """As they read the same values stored densely."""
    sample = noise(30)
    for layer in LAYERS:
        first = np.repeat([t == "a" for t in sample.rows.document_tasks], sample.rows.lengths)
        sample.acts[layer][torch.from_numpy(first)] += 1.5
    acts = published(work, sample)
    sae_trained(work, acts)
    assert cli("sae-latents", *SMALL) == 0
    latents = Run(newest(work))
    words = ["--kinds", "logistic,mass_mean", "--level", level, *SMALL]
    assert cli("probe", "--acts", latents.name, *words) == 0
    probe, rows = Run(newest(work)), table(newest(work))
    assert [record["run"] for record in probe.all_of("input")] == [latents.name]
    assert probe.start["resolved"]["site"] == "sae_latents"
    own = [row for row in rows if row["kind"] == "logistic"]
    assert [int(row["layer"]) for row in own] == list(LAYERS)
    assert all(float(row["auroc"]) > 0.8 for row in own)
    dense = published(work, Sample({n: latents_of(sample, n) for n in LAYERS}, sample.rows))
    assert cli("probe", "--acts", dense.name, *words) == 0
    for one, other in zip(rows, table(newest(work)), strict=True):
        assert one["kind"] == other["kind"]
        assert float(one["auroc"]) == pytest.approx(float(other["auroc"]), abs=1e-6)


def test_probes_take_a_path_and_latest_is_a_capture(cli: Cli, work: Path) -> None:
    acts = published(work, noise(12))
    sae_trained(work, acts)
    assert cli("sae-latents", *SMALL) == 0
    latents = newest(work)
    for words, expected in ((["--acts", latents], latents.name), ([], acts.name)):
        assert cli("probe", *words, "--layers", 3, "--kinds", "mass_mean", *SMALL) == 0
        resolved = Run(newest(work)).start["resolved"]
        assert (resolved["acts"], resolved["layers"]) == (expected, [3])

"""The capture stage through the real command line, on tiny random models."""

import csv
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sdlms.runs.reading import Run, list_runs
from tests.stages.killing_stages import BLOCK_TOKENS, killed_at

Cli = Callable[..., int]
SMALL = ["--max-tokens", "600", "--dtype", "float32", "--threads", "1", "--quiet"]


def newest(folder: Path) -> Path:
    return list_runs(folder / "artifacts")[-1].path


def table(run: Path) -> list[dict[str, str]]:
    with (run / "sparsity.csv").open() as file:
        return list(csv.DictReader(file))


def outputs(run: Path) -> dict[str, str]:
    return {record["path"]: record["sha256"] for record in Run(run).all_of("output")}


def test_the_default_run_holds_all_that_it_promises(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("capture", "--max-tokens", 500, "--label", "first") == 0
    out = capsys.readouterr().out
    run = newest(work)
    assert out.splitlines()[-1] == str(run.relative_to(work))
    assert run.name.endswith("_capture_first")
    assert set(outputs(run)) == {"activations.h5", "counts.h5", "sparsity.csv"}
    rows = table(run)
    assert [row["task"] for row in rows[:6]] == [
        "python_code", "math", "qa", "prose", "dialogue", "reasoning",
    ]  # fmt: skip
    assert {row["layer"] for row in rows} == {"1", "2", "3"}
    assert {row["site"] for row in rows} == {"mlp_act"}
    start = Run(run).start
    assert start["resolved"]["model"]["name"] == "sdlms-medium"
    assert start["resolved"]["data"][0]["sources"].keys() == {
        "probe.jsonl", "probe/python_code.jsonl",
    }  # fmt: skip
    assert start["config"]["max_tokens"] == 500
    assert start["decided"]["dtype"] in ("float32", "bfloat16")
    done = Run(run).records[-1]
    assert done["tokens"] == sum(int(row["n_tokens"]) for row in rows[:6])
    assert "sdlms-medium: mlp_act at layers 1, 2, 3" in (run / "logs/run.log").read_text()
    assert cli("runs", "verify", "latest") == 0


@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama", "bert"])
def test_what_is_stored_is_what_the_model_computes(
    cli: Cli, work: Path, architecture_model: Callable[[str], Path], model_type: str
) -> None:
    folder = architecture_model(model_type)
    sites = "mlp_act,mlp_out,attn_out,resid_pre,resid_post"
    assert cli(
        "capture", "--model", folder, "--tasks", "qa,math", "--layers", "all", "--site", sites,
        "--store-dtype", "float32", *SMALL,
    ) == 0  # fmt: skip
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with h5py.File(newest(work) / "activations.h5") as file:
        offsets = file["/tokens/offsets"][:]
        for document in (0, len(offsets) - 2):
            own = slice(offsets[document], offsets[document + 1])
            ids = torch.from_numpy(file["/tokens/ids"][own].astype(np.int64))[None]
            with torch.no_grad():
                states = model(ids, output_hidden_states=True).hidden_states
            for layer in range(4):
                found = file[f"/resid_pre/layer_{layer}"][own]
                np.testing.assert_allclose(found, states[layer][0], atol=1e-5, rtol=1e-4)
                parts = [file[f"/{site}/layer_{layer}"][own] for site in ("attn_out", "mlp_out")]
                if model_type != "bert":  # its norms stand between the parts and the sum
                    after = file[f"/resid_post/layer_{layer}"][own]
                    np.testing.assert_allclose(found + sum(parts), after, atol=1e-4, rtol=1e-4)


def test_statistics_agree_with_the_stored_activations(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    assert cli("capture", "--model", tiny_model, "--site", "mlp_act,resid_pre", *SMALL) == 0
    run = newest(work)
    with h5py.File(run / "activations.h5") as file, h5py.File(run / "counts.h5") as counts:
        tasks = file["/documents/task"][:].astype(str)
        document = np.repeat(np.arange(len(tasks)), np.diff(file["/tokens/offsets"][:]))
        for row in table(run):
            name = f"/{row['site']}/layer_{row['layer']}"
            bits = file[name][:]
            acts = torch.from_numpy(bits)
            acts = (acts.view(torch.bfloat16) if bits.dtype == np.uint16 else acts).double().numpy()
            thresholds = counts[f"{name}/thresholds"][:]
            expected = np.quantile(acts, 0.9, axis=0, method="inverted_cdf")
            assert np.array_equal(thresholds, expected.astype(np.float32))
            own = acts[tasks[document] == row["task"]]
            assert int(row["n_tokens"]) == len(own)
            neurons = row["site"] == "mlp_act"
            strengths = np.maximum(own, 0) if neurons else np.abs(own)
            ratios = strengths.sum(axis=1) ** 2 / (strengths**2).sum(axis=1)
            assert float(row["participation_ratio"]) == pytest.approx(ratios.mean(), rel=1e-5)
            rates = (own > thresholds).mean(axis=0)
            assert float(row["firing_rate"]) == pytest.approx(rates.mean())
            assert float(row["firing_rate_q95"]) == pytest.approx(np.quantile(rates, 0.95))
            assert float(row["dead_fraction"]) == pytest.approx((rates == 0).mean())
            fraction = float(row["activation_fraction"])
            assert fraction == pytest.approx((own > 0).mean()) if neurons else math.isnan(fraction)


def test_relu_neurons_fire_above_zero(cli: Cli, work: Path, tiny_relu_model: Path) -> None:
    assert cli("capture", "--model", tiny_relu_model, "--tasks", "qa", *SMALL) == 0
    for row in table(newest(work)):
        assert row["threshold_rule"] == "zero"
        assert row["firing_rate"] == row["activation_fraction"]
    assert cli("capture", "--model", tiny_relu_model, "--tasks", "qa", "--no-save", *SMALL) == 0
    one, two = (run.path for run in list_runs(work / "artifacts"))
    assert (one / "counts.h5").read_bytes() == (two / "counts.h5").read_bytes()


def test_statistics_only_are_the_same_statistics(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdlms.acts.statistics.SAMPLE_TOKENS", 1000)  # fewer than there are
    for extra in ([], ["--no-save"]):
        assert cli("capture", "--model", tiny_model, *SMALL, *extra) == 0
    one, two = (run.path for run in list_runs(work / "artifacts"))
    assert set(outputs(two)) == {"counts.h5", "sparsity.csv"}
    with h5py.File(one / "counts.h5") as a, h5py.File(two / "counts.h5") as b:
        sample = a["/threshold_sample/documents"][:]
        assert 0 < len(sample) < len(a["/documents/id"])
        assert np.array_equal(sample, b["/threshold_sample/documents"])
    for a, b in zip(table(one), table(two), strict=True):
        for column, value in a.items():
            if column in ("site", "task", "threshold_rule"):
                assert b[column] == value
            else:
                assert float(b[column]) == pytest.approx(float(value), rel=1e-5, nan_ok=True)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_documents(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    for seed in (0, 0, 1):
        assert cli("capture", "--model", tiny_model, "--seed", seed, *SMALL) == 0
    first, second, third = (outputs(run.path) for run in list_runs(work / "artifacts"))
    assert first == second
    assert first["activations.h5"] != third["activations.h5"]


@pytest.mark.parametrize("store_dtype", ["float32", "float16", "bfloat16"])
def test_batch_size_changes_no_token_and_values_within_rounding(
    cli: Cli, work: Path, tiny_model: Path, store_dtype: str
) -> None:
    for tokens in (1, 700):
        assert cli(
            "capture", "--model", tiny_model, "--batch-tokens", tokens,
            "--store-dtype", store_dtype, *SMALL,
        ) == 0  # fmt: skip
    one, two = (run.path for run in list_runs(work / "artifacts"))
    with h5py.File(one / "activations.h5") as a, h5py.File(two / "activations.h5") as b:
        assert np.array_equal(a["/tokens/ids"], b["/tokens/ids"])
        for layer in (1, 2, 3):
            bits = [torch.from_numpy(file[f"/mlp_act/layer_{layer}"][:]) for file in (a, b)]
            stored = [x.view(torch.bfloat16) if x.dtype == torch.uint16 else x for x in bits]
            step = torch.finfo(stored[0].dtype).eps * stored[0].abs().double()
            rounding = 0 if store_dtype == "float32" else step
            difference = (stored[0].double() - stored[1].double()).abs()
            assert (difference <= 1e-5 + rounding).all()
            assert_counts_differ_at_ties_only(one, two, stored[0].double(), layer)


def assert_counts_differ_at_ties_only(one: Path, two: Path, acts: torch.Tensor, layer: int) -> None:
    """Another batch size may move a count only by tokens that lie at the threshold."""
    name = f"/mlp_act/layer_{layer}"
    with h5py.File(one / "counts.h5") as a, h5py.File(two / "counts.h5") as b:
        thresholds = a[f"{name}/thresholds"][:].astype(np.float64)
        totals = [file[f"{name}/counts"][:].sum(axis=0).astype(int) for file in (a, b)]
    close = np.abs(acts.numpy() - thresholds) <= 1e-4 + 2**-6 * np.abs(thresholds)
    assert (np.abs(totals[0] - totals[1]) <= close.sum(axis=0)).all()
    assert np.abs(totals[0] - totals[1]).sum() <= 0.002 * totals[0].sum()


def test_only_the_blocks_that_are_needed_run(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXForCausalLM, GPTNeoXLayer

    ran: list[int] = []
    forward = GPTNeoXLayer.forward

    def counted(self: GPTNeoXLayer, *args: object, **kwargs: object) -> object:
        ran.append(self.attention.layer_idx)
        return forward(self, *args, **kwargs)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the causal model must not run")

    monkeypatch.setattr(GPTNeoXLayer, "forward", counted)
    monkeypatch.setattr(GPTNeoXForCausalLM, "forward", refused)
    assert cli("capture", "--model", tiny_model, "--layers", "0,2", "--tasks", "qa", *SMALL) == 0
    assert set(ran) == {0, 1, 2}
    assert len(ran) % 3 == 0  # one forward for both layers


def test_lack_of_memory_halves_the_batch_and_says_so(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from sdlms.models.recording import Recording

    assert cli("capture", "--model", tiny_model, "--tasks", "qa", *SMALL) == 0
    run = Recording.run

    def scarce(self: Recording, ids: torch.Tensor, mask: torch.Tensor | None = None) -> object:
        if ids.numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, ids, mask)

    monkeypatch.setattr(Recording, "run", scarce)
    assert cli("capture", "--model", tiny_model, "--tasks", "qa", *SMALL) == 0
    assert "out of memory: batches are halved" in capsys.readouterr().err
    plain, halved = (run.path for run in list_runs(work / "artifacts"))
    events = Run(halved).all_of("batch_halved")
    assert events
    assert events[-1]["batch_tokens"] <= 150
    with h5py.File(plain / "activations.h5") as a, h5py.File(halved / "activations.h5") as b:
        x, y = (file["/mlp_act/layer_3"][:].astype(np.float32) for file in (a, b))
        np.testing.assert_allclose(x, y, atol=1e-3, rtol=2e-3)


def undisturbed(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> dict[str, str]:
    """The hash of every output of a run that is not killed, in blocks as `killed_at` has them.

    In this process: those that are killed share the hash seed of another.
    """
    from sdlms.acts import capturing
    from sdlms.models import batching

    with monkeypatch.context() as context:
        context.setattr(capturing, "BLOCK_TOKENS", BLOCK_TOKENS)
        context.setitem(batching.DEFAULT_BUDGET, "cpu", BLOCK_TOKENS)
        assert cli(*arguments) == 0
    return outputs(newest(work))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["--save", "--no-save"])
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    arguments = ["capture", "--model", tiny_model, "--tasks", "qa,math", mode, *SMALL]
    expected = undisturbed(cli, work, monkeypatch, *arguments)
    assert not killed_at(work, 0, *arguments)
    assert outputs(newest(work)) == expected
    n_calls = int((work / "calls").read_text())
    generator = random.Random(0)
    for chain in range(6):  # a run that is killed and resumed, killed and resumed, and finishes
        for _ in range(3):
            fatal = generator.randrange(1, n_calls)
            if not killed_at(work, fatal, *arguments, "--resume"):
                break  # what was left needed fewer calls than that
        else:
            assert not killed_at(work, 0, *arguments, "--resume")
        # One killed behind its renaming is complete, and the next --resume starts another.
        assert len(list_runs(work / "artifacts")) >= chain + 3
        assert all(outputs(run.path) == expected for run in list_runs(work / "artifacts"))
    assert any(Run(run.path).all_of("resume") for run in list_runs(work / "artifacts"))
    assert [run for run in list_runs(work / "artifacts", partial=True) if not run.complete] == []


def test_an_interrupt_leaves_a_run_that_resumes(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdlms.acts import capturing
    from sdlms.models import batching
    from sdlms.models.recording import Recording

    arguments = ["capture", "--model", tiny_model, "--tasks", "qa", *SMALL]
    assert cli(*arguments) == 0
    monkeypatch.setattr(capturing, "BLOCK_TOKENS", 100)
    monkeypatch.setitem(batching.DEFAULT_BUDGET, "cpu", 100)  # a block is never smaller
    run, calls = Recording.run, []

    def interrupted(self: Recording, ids: torch.Tensor, mask: torch.Tensor | None = None) -> object:
        calls.append(ids.shape)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, ids, mask)

    monkeypatch.setattr(Recording, "run", interrupted)
    assert cli(*arguments) == 130
    partial = [run for run in list_runs(work / "artifacts", partial=True) if not run.complete]
    assert [run.status for run in partial] == ["interrupted"]
    n_before = len(calls)
    assert cli(*arguments, "--resume", "--label", "again") == 0
    n_resumed = len(calls) - n_before
    assert cli(*arguments) == 0
    n_whole = len(calls) - n_before - n_resumed
    assert 0 < n_resumed < n_whole  # it did not start anew
    whole, resumed, _ = (run.path for run in list_runs(work / "artifacts"))
    assert Run(resumed).all_of("resume")
    with h5py.File(whole / "activations.h5") as a, h5py.File(resumed / "activations.h5") as b:
        x, y = (file["/mlp_act/layer_2"][:].astype(np.float32) for file in (a, b))
        np.testing.assert_allclose(x, y, atol=1e-3, rtol=2e-3)


def test_a_changed_config_is_another_input(cli: Cli, work: Path, tiny_model: Path) -> None:
    """The same weights under another config compute otherwise: never spliced into one run."""
    shutil.copytree(tiny_model, work / "mine")
    arguments = ["capture", "--model", "mine", "--tasks", "qa", *SMALL]
    assert killed_at(work, 40, *arguments)
    config = json.loads((work / "mine/config.json").read_text())
    (work / "mine/config.json").write_text(json.dumps({**config, "layer_norm_eps": 0.1}))
    assert cli(*arguments, "--resume") == 0
    assert not Run(newest(work)).all_of("resume")


def test_another_device_does_not_continue_a_run(
    cli: Cli, work: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments = ["capture", "--model", tiny_model, "--tasks", "qa", *SMALL]
    assert killed_at(work, 40, *arguments)
    monkeypatch.setattr("sdlms.models.device.describe", lambda device: "another machine")
    assert cli(*arguments, "--resume") == 2
    assert "here it is another machine" in capsys.readouterr().err


def test_a_hub_model_is_recorded_by_its_commit_and_its_code_is_not_run(
    work: Path, tiny_model: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = work / "home/hub/models--someone--tiny"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(tiny_model, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/step1000").write_text(commit)
    config = json.loads((snapshot / "config.json").read_text())
    config["auto_map"] = {name: f"evil.{name}" for name in ("AutoConfig", "AutoModel")}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "evil.py").write_text("raise SystemExit('code of the model was run')\n")
    command = [
        sys.executable, "-m", "sdlms", "capture", "--model", "someone/tiny", "--revision",
        "step1000", "--tasks", "qa", *SMALL,
    ]  # fmt: skip
    environment = {**os.environ, "HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = Run(newest(work)).start["resolved"]["model"]
    assert (model["name"], model["revision"], model["commit"]) == (
        "someone/tiny", "step1000", commit,
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_computes_what_the_cpu_computes(cli: Cli, work: Path, tiny_model: Path) -> None:
    for device in ("cpu", "cuda"):
        assert cli("capture", "--model", tiny_model, "--device", device, *SMALL) == 0
    one, two = (run.path for run in list_runs(work / "artifacts"))
    with h5py.File(one / "activations.h5") as a, h5py.File(two / "activations.h5") as b:
        x, y = (file["/mlp_act/layer_3"][:].astype(np.float32) for file in (a, b))
        np.testing.assert_allclose(x, y, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_texts_are_read_from_a_file(cli: Cli, work: Path, tiny_model: Path, kind: str) -> None:
    sentences = [
        f"Number {i} is followed by {i + 1}, as everyone at the table knew." for i in range(9)
    ]
    if kind == "text":
        (work / "story.txt").write_text("\n\n".join(sentences))
        extra = ["--texts", "story.txt"]
    else:
        lines = [json.dumps({"body": sentence}) for sentence in sentences]
        (work / "story.jsonl").write_text("\n".join(lines))
        extra = ["--texts", "story.jsonl", "--field", "body"]
    assert cli("capture", "--model", tiny_model, *SMALL, *extra) == 0
    rows = table(newest(work))
    assert {row["task"] for row in rows} == {"story"}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with h5py.File(newest(work) / "activations.h5") as file:
        text = tokenizer.decode(file["/tokens/ids"][:].tolist())
    assert all(sentence in text for sentence in sentences)


def test_long_documents_are_cut_counted_and_warned_of(
    cli: Cli, work: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "long.txt").write_text("word " * 400)
    assert cli("capture", "--model", tiny_model, "--texts", "long.txt", *SMALL) == 0
    assert "1 of 1 documents are longer than the context: 3" in capsys.readouterr().err
    (event,) = Run(newest(work)).all_of("document_truncated")
    assert event["count"] == 1
    assert table(newest(work))[0]["n_tokens"] == "96"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "sdlms-medum"], "Did you mean 'sdlms-medium'?"),
        (["--tasks", "maths"], "unknown task 'maths'. Did you mean 'math'?"),
        (["--tasks", "absent.jsonl"], "no such file"),
        (["--texts", "absent.txt"], "no such file"),
        (["--layers", "4"], "there is no layer 4; the model has layers 0 to 3"),
        (["--layers", "middle"], "'middle' is neither an index"),
        (["--site", "mlp"], "unknown site 'mlp'"),
        (["--dtype", "float8"], "float8"),
        (["--dtype", "float16"], "float16 is for GPUs"),
        (["--device", "tpu"], "'tpu' is none of auto, cpu"),
        (["--device", "cuda:7"], "this machine has"),
        (["--max-tokens", "0"], "--max-tokens must be >= 1"),
        (["--max-tokens", "1"], "has"),
        (["--layers", "25"], "Did you mean 25%?"),
        (["--skip-first", "600"], "every token is special or skipped"),
        (["--field", "body"], "--field body is for --texts FILE.jsonl"),
        (["--model", "./nowhere"], "no folder that exists"),
        (["--store-dtype", "int8"], "int8"),
        (["--threads", "-1"], "--threads must be"),
        (["--revision", "main"], "--revision is for hub models"),
        (["--artifacts", "taken"], "cannot write under taken/"),
        (["--skip-first", "-1"], "--skip-first must be >= 0"),
        (["--tasks", "qa", "--texts", "taken"], "exclude each other"),
        (["--texts", "empty.txt"], "the file is empty"),
        (["--texts", "binary.txt"], "binary"),
        (["--tasks", "./broken.jsonl"], "broken.jsonl:2"),
        (["--tasks", "./hollow.jsonl"], "task 'b' has no documents"),
        (["--config", "some.toml", "--texts", "taken"], "(a --config file counts). Give one of th"),
        (["--tasks", "", "--model", "./nowhere"], "--tasks is empty"),
        (["--config", "typo.toml"], "unknown key 'max_token'. Did you mean 'max_tokens'?"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_bad_input_is_one_line_and_loads_no_model(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    (work / "taken").write_text("a file")
    (work / "empty.txt").touch()
    (work / "binary.txt").write_bytes(bytes(range(256)))
    (work / "broken.jsonl").write_text('{"task": "a", "text": "fine"}\n{"task": "a"\n')
    (work / "hollow.jsonl").write_text('{"task": "a", "text": "x"}\n{"task": "b", "text": "x"}\n')
    (work / "typo.toml").write_text("max_token = 5\n")
    (work / "some.toml").write_text('tasks = ["qa"]\n')

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(AutoModel, "from_pretrained", refused)
    assert cli("capture", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("sdlms: ")
    assert err.count("\n") == 1
    assert list_runs(work / "artifacts", partial=True) == []


def test_too_little_disk_names_both_sizes(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(work)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert cli("capture") == 2
    err = capsys.readouterr().err
    assert re.search(r"this run needs 29\d\.\d MB under artifacts/", err)
    assert "where 5.0 MB are free" in err
    assert err.count("\n") == 1
    assert cli("capture", "--tasks", "qa", *SMALL) == 0


def test_an_overflow_stops_the_run_and_names_the_place(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from sdlms.models.recording import Recording

    run = Recording.run

    def huge(self: Recording, *args: torch.Tensor) -> object:
        return {key: acts * 1e7 for key, acts in run(self, *args).items()}

    monkeypatch.setattr(Recording, "run", huge)
    assert cli("capture", "--model", tiny_model, "--tasks", "qa", *SMALL) == 2
    err = capsys.readouterr().err
    assert "mlp_act of layer" in err
    assert "--store-dtype" in err
    (partial,) = list_runs(work / "artifacts", partial=True)
    assert partial.status == "failed"


@pytest.mark.slow
def test_an_installed_wheel_captures_from_an_empty_folder(work: Path) -> None:
    source = Path(__file__).parents[2]
    wheels, place, empty = work / "wheels", work / "site", work / "empty"
    empty.mkdir()
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", place, wheel]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}
    where = [sys.executable, "-c", "import sdlms.storage.assets as a; print(a.__file__)"]
    found = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(place))
    command = [sys.executable, "-m", "sdlms", "capture", "--max-tokens", "400"]
    result = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (empty / result.stdout.splitlines()[-1] / "sparsity.csv").is_file()

"""An sae-train run that was killed or interrupted ends with the bytes of one that was not."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunWriter
from sdlms.sae import training
from sdlms.sae.training import Training
from tests.stages.killing_stages import killed_chains
from tests.stages.probe_runs import Cli, newest, outputs
from tests.stages.sae_train_runs import planted, trained_runs

STEPS = ["--batch-size", 64, "--tokens", 2560, "--threads", 1]  # 40 steps
SWEEP = ["--l1", "0.3,1", "--screen", *STEPS]
KINDS = {
    "standard": SWEEP,
    "topk": ["--arch", "topk", "--k", "2,4", *STEPS],
    "jumprelu": ["--arch", "jumprelu", "--l0", "0.1", "--seeds", 1, *STEPS],
    "batchtopk": ["--arch", "batchtopk", "--k", "3", "--seeds", 1, *STEPS],
}


def kill_at_random(work: Path, n_chains: int, words: list[object]) -> None:
    """Runs that die at random system calls and go on until they end; all are the same."""
    found = killed_chains(work, n_chains, "sae-train", *words, "--quiet")
    assert found["kills"] >= n_chains
    assert found["resumed"] >= n_chains // 2  # one killed before its first line is begun anew
    assert found["runs"] == n_chains + 1
    assert found["different"] == 0
    partial = list_runs(work / "artifacts", partial=True)
    assert all(run.complete or not run.start for run in partial)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(work: Path, kind: str) -> None:
    planted(work)
    kill_at_random(work, 6, ["--acts", "latest", "--ce-tokens", 0, *KINDS[kind]])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "batchtopk"])
def test_and_so_it_does_where_a_model_runs(work: Path, tiny_model: Path, kind: str) -> None:
    lines = [f"Text {i} tells of {i * i} sheep and {'many ' * (i % 7)}more." for i in range(90)]
    texts = work / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    source = ["--model", tiny_model, "--texts", texts, "--layers", "1", "--expansion", 1]
    kill_at_random(work, 4, [*source, "--ce-tokens", 100, *KINDS[kind]])


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Ctrl-C in the n-th step; the steps that were begun, from 0."""
    begun: list[int] = []
    do_step = Training._step

    def noting(self: Training, batch: object) -> None:
        begun.append(self.n_done)
        if len(begun) == step:
            os.kill(os.getpid(), signal.SIGINT)
        do_step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "_step", noting)
    return begun


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("kept_seconds", [0.0, 1e9])
def test_an_interrupt_leaves_a_run_that_resumes_at_its_last_checkpoint(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kind: str, kept_seconds: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", kept_seconds)
    planted(work)
    words = ["sae-train", "--acts", "latest", "--ce-tokens", 0, *KINDS[kind]]
    assert cli(*words) == 0
    whole = newest(work)
    begun = interrupt_at(monkeypatch, 30)
    capsys.readouterr()
    assert cli(*words) == 130
    assert "interrupted; the same command with --resume continues here" in capsys.readouterr().err
    (partial,) = [run for run in trained_runs(work) if not run.complete]
    assert partial.status == "interrupted"
    assert cli(*words, "--resume") == 0
    assert begun[30] == 30  # the step that was begun is done, and saved
    resumed = newest(work)
    assert resumed.name == partial.name
    assert Run(resumed).all_of("resume")
    assert outputs(whole) == outputs(resumed)
    assert Run(resumed).records[-1]["tokens"] == Run(whole).records[-1]["tokens"]
    assert cli("runs", "verify", resumed.name) == 0


@pytest.mark.parametrize("place", ["sdlms.sae.sweep.save_member", "sdlms.sae.measuring.measure"])
def test_an_interrupt_behind_the_training(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Everything but the training is done anew, over what was there already."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    planted(work)
    words = ["sae-train", "--acts", "latest", "--ce-tokens", 0, *SWEEP, "--patience", 3, "--quiet"]
    assert cli(*words) == 0
    whole, calls = newest(work), []
    with monkeypatch.context() as context:
        module, _, name = place.rpartition(".")
        original = getattr(sys.modules[module], name)

        def interrupted(*arguments: object) -> object:
            calls.append(name)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return original(*arguments)

        context.setattr(place, interrupted)
        assert cli(*words) == 130
    begun = interrupt_at(monkeypatch, -1)
    assert cli(*words, "--resume") == 0
    assert begun == []
    assert outputs(whole) == outputs(newest(work))
    assert Run(whole).records[-1]["tokens"] == Run(newest(work)).records[-1]["tokens"]


@pytest.mark.parametrize("n_told", [0, 1, 2])
def test_what_was_taken_is_told_once(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, n_told: int
) -> None:
    """Interrupted while it is told, or before."""
    planted(work)
    words = ["sae-train", "--acts", "latest", "--ce-tokens", 0, *KINDS["topk"], "--quiet"]
    with monkeypatch.context() as context:
        tell, told = RunWriter.event, []

        def interrupted(self: RunWriter, event: str, **fields: object) -> None:
            if event == "selected":
                told.append(event)
                if len(told) > n_told:
                    raise KeyboardInterrupt
            tell(self, event, **fields)
            if event == "selected" and n_told == len(told) == 2:
                raise KeyboardInterrupt

        context.setattr(RunWriter, "event", interrupted)
        assert cli(*words) == 130
    assert cli(*words, "--resume") == 0
    found = [record["layer"] for record in Run(newest(work)).all_of("selected")]
    assert found == [1, 3]


def test_other_settings_begin_another_run(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(work)
    words = ["sae-train", "--acts", "latest", "--ce-tokens", 0, *KINDS["topk"]]
    with monkeypatch.context() as context:
        interrupt_at(context, 2)
        assert cli(*words) == 130
    assert cli(*words, "--lr", 0.002, "--resume") == 0
    assert "no unfinished sae-train run has these settings" in capsys.readouterr().err
    assert not Run(newest(work)).all_of("resume")


def test_a_damaged_checkpoint_is_named(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    planted(work)
    words = ["sae-train", "--acts", "latest", "--ce-tokens", 0, *KINDS["topk"]]
    with monkeypatch.context() as context:
        interrupt_at(context, 20)
        assert cli(*words) == 130
    (partial,) = [run for run in trained_runs(work) if not run.complete]
    checkpoint = min(partial.path.rglob("training/*.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert cli(*words, "--resume") == 2
    assert checkpoint.name in capsys.readouterr().err.splitlines()[-1]

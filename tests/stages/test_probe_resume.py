"""A probe run that was killed or interrupted ends with the bytes of one that was not."""

import os
import signal
from pathlib import Path

import pytest

from sdlms.probes import stacks
from sdlms.probes.sweep import Sweep
from sdlms.probes.training import Trainer
from sdlms.runs.reading import Run, list_runs
from tests.stages.killing_stages import killed_chains
from tests.stages.probe_runs import SMALL, Cli, newest, noise, outputs, published, raised

WORDS = ["--kinds", "logistic,mlp,attention,mass_mean", "--seeds", "2"]


@pytest.fixture
def run(work: Path) -> Run:
    return published(work, raised(noise(18), 1, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["document", "token"])
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(
    work: Path, run: Run, level: str
) -> None:
    kinds = "logistic,mlp,attention" if level == "document" else "logistic,mlp"
    pool = ["--pool", "max"] if level == "document" else []
    words = ["--kinds", kinds, *pool, "--level", level, *SMALL]
    found = killed_chains(work, 6, "probe", *words)
    assert found["kills"] >= 6
    assert found["resumed"] >= 4  # one killed before its first line is begun anew
    assert found["runs"] >= 7
    assert found["different"] == 0
    assert found["unfinished"] == []


def interrupt_at(monkeypatch: pytest.MonkeyPatch, call: int) -> list[tuple[str, int]]:
    """Ctrl-C in the n-th epoch; kind and number of each epoch that began."""
    epochs: list[tuple[str, int]] = []
    run_epoch = Trainer.run_epoch

    def noting(self: Trainer) -> None:
        epochs.append((self.network.kind, self.epoch))
        if len(epochs) == call:
            os.kill(os.getpid(), signal.SIGINT)
        run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", noting)
    return epochs


@pytest.mark.parametrize("kept_seconds", [0.0, 1e9])
def test_an_interrupt_leaves_a_run_that_resumes_at_its_last_checkpoint(
    cli: Cli, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], kept_seconds: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(stacks, "CHECKPOINT_SECONDS", kept_seconds)
    assert cli("probe", *WORDS, *SMALL) == 0
    whole = newest(work)
    epochs = interrupt_at(monkeypatch, 6)
    capsys.readouterr()
    assert cli("probe", *WORDS, "--threads", 1) == 130
    assert "interrupted; the same command with --resume continues here" in capsys.readouterr().err
    (partial,) = [r for r in list_runs(work / "artifacts", partial=True) if not r.complete]
    assert partial.status == "interrupted"
    begun = list(epochs)
    assert begun[-1] == ("mlp", 5)
    assert cli("probe", *WORDS, "--threads", 1, "--resume") == 0
    log = capsys.readouterr().err
    assert "logistic: done before the interruption" in log
    assert "mass_mean: done before" not in log
    assert epochs[6] == (("mlp", 5) if kept_seconds == 0 else ("mlp", 0))
    resumed = newest(work)
    assert resumed.name == partial.name
    assert Run(resumed).all_of("resume")
    assert outputs(whole) == outputs(resumed)
    assert cli("runs", "verify", resumed.name) == 0


def test_an_interrupt_between_two_kinds(
    cli: Cli, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("probe", *WORDS, *SMALL) == 0
    whole = newest(work)
    ran: list[str] = []
    fit = Sweep.run

    def interrupted(self: Sweep, kind: str) -> None:
        if kind == "mass_mean" and kind not in ran:
            ran.append(kind)
            raise KeyboardInterrupt
        fit(self, kind)

    def refused(self: Trainer) -> None:
        raise AssertionError("what was trained is trained anew")

    monkeypatch.setattr(Sweep, "run", interrupted)
    assert cli("probe", *WORDS, *SMALL) == 130
    monkeypatch.setattr(Trainer, "run_epoch", refused)
    assert cli("probe", *WORDS, *SMALL, "--resume") == 0
    assert outputs(whole) == outputs(newest(work))


def test_an_interrupt_of_small_fits(
    cli: Cli, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are at work then; none may write into the run behind its end."""
    from sdlms.probes import sweep

    words = ["--kinds", "logistic", "--seeds", 3, "--threads", 2, "--quiet"]
    assert cli("probe", *words) == 0
    whole = newest(work)
    save, saved = sweep.save_probe, []

    def interrupted(stem: Path, probe: object) -> None:
        saved.append(stem)
        if len(saved) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        save(stem, probe)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "save_probe", interrupted)
    assert cli("probe", *words) == 130
    assert cli("probe", *words, "--resume") == 0
    assert outputs(whole) == outputs(newest(work))


def test_a_table_that_changed_meanwhile_begins_another_run(
    cli: Cli, work: Path, run: Run, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ids = [f"{i:016x}" for i in range(18)]
    labels = work / "labels.csv"
    words = ["--kinds", "mlp", "--labels", labels.name, *SMALL]
    for order in (1, -1):
        rows = [f"{name},{'xy'[i % 2]}" for i, name in enumerate(ids)]
        labels.write_text("\n".join(["document_id,label", *rows[::order]]) + "\n")
        if order == 1:
            with monkeypatch.context() as context:
                interrupt_at(context, 2)
                assert cli("probe", *words) == 130
    assert cli("probe", *words, "--resume") == 0
    assert "no unfinished probe run has these settings" in capsys.readouterr().err
    assert not Run(newest(work)).all_of("resume")

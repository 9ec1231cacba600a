"""Memory and the capture stage: models spread over devices, and the measured token budget."""

import importlib.util
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from sdlms.models import batching, spreading
from sdlms.models.recording import Recording
from sdlms.runs.meta import MetaWriter
from sdlms.runs.reading import Run, list_runs
from tests.stages.test_capture import SMALL, Cli, newest, outputs

TASKS = ("--tasks", "qa,math", *SMALL)


def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose memory holds about half the model; its disk is another device."""
    monkeypatch.setattr(spreading, "room_for_weights", lambda free_memory: {"cpu": 360_000})


@pytest.mark.parametrize("control", ["none", "reinit"])
def test_a_spread_model_gives_the_same_bytes(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    arguments = ("capture", "--model", tiny_model, "--control", control, *TASKS)
    assert cli(*arguments) == 0
    whole = newest(work)
    assert Run(whole).start["decided"]["device_map"] is None
    assert cli(*arguments, "--device-map", "auto") == 0
    fitting = newest(work)
    little_room(monkeypatch)
    assert cli(*arguments, "--device-map", "auto") == 0
    spread = newest(work)
    assert outputs(whole) == outputs(fitting) == outputs(spread)
    if not torch.cuda.is_available():
        assert Run(fitting).start["decided"]["device_map"] == {"": "cpu"}
    places = Run(spread).start["decided"]["device_map"]
    assert set(places.values()) == {"cpu", "disk"}
    assert {path.name for path in spread.iterdir()} == {path.name for path in whole.iterdir()}


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Ctrl-C in the n-th forward; the sizes of all batches."""
    from sdlms.acts import capturing

    run, sizes = Recording.run, []

    def interrupted(self: Recording, ids: torch.Tensor, mask: torch.Tensor | None = None) -> object:
        sizes.append(ids.numel())
        if len(sizes) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, ids, mask)

    monkeypatch.setattr(Recording, "run", interrupted)
    monkeypatch.setattr(capturing, "BLOCK_TOKENS", 200)
    for device in ("cpu", "cuda"):  # a block is never smaller than the budget
        monkeypatch.setitem(batching.DEFAULT_BUDGET, device, 200)
    return sizes


def test_a_resumed_run_is_spread_as_it_was_begun(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("capture", "--model", tiny_model, "--device-map", "auto", *TASKS)
    interrupt(monkeypatch, after=3)
    with monkeypatch.context() as begun:
        little_room(begun)
        assert cli(*arguments) == 130
    seen = []
    made = spreading.Spread.arguments

    def arguments_seen(self: spreading.Spread) -> dict[str, object]:
        seen.append(self.modules)
        return made(self)

    monkeypatch.setattr(spreading.Spread, "arguments", arguments_seen)
    assert cli(*arguments, "--resume") == 0
    run = Run(newest(work))
    assert run.all_of("resume")
    assert seen == [run.start["decided"]["device_map"]]
    assert "disk" in seen[0].values()


def test_a_resumed_run_keeps_the_budget_that_was_measured(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("capture", "--model", tiny_model, *TASKS)
    sizes = interrupt(monkeypatch, after=3)
    assert cli(*arguments) == 130
    (partial,) = [run for run in list_runs(work / "artifacts", partial=True) if not run.complete]
    meta = MetaWriter(partial.path / "meta.jsonl")  # as a GPU would have told
    meta.event("budget_calibrated", {"batch_tokens": 128})
    meta.close()
    assert max(sizes) > 128
    sizes[:] = [0] * 3
    assert cli(*arguments, "--resume") == 0
    assert Run(newest(work)).all_of("resume")
    assert 96 <= max(sizes) <= 128


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_budget_is_measured_once(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("capture", "--model", tiny_model, "--device", "cuda", *TASKS)
    assert cli(*arguments) == 0
    (event,) = Run(newest(work)).all_of("budget_calibrated")
    assert event["batch_tokens"] == 16384
    assert cli(*arguments, "--free-memory", "99.999%") == 0
    assert Run(newest(work)).all_of("budget_calibrated")[0]["batch_tokens"] < 16384
    assert cli(*arguments, "--batch-tokens", 500) == 0
    assert not Run(newest(work)).all_of("budget_calibrated")
    interrupt(monkeypatch, after=4)
    assert cli(*arguments) == 130
    assert cli(*arguments, "--resume") == 0
    assert len(Run(newest(work)).all_of("budget_calibrated")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device-map", "auto", "--device", "cpu"], "--device-map auto takes all devices"),
        (["--device-map", "balanced"], "--device-map: expected one of none, auto"),
        (["--device", "cpu", "--free-memory", "8GB"], "--free-memory 8GB is for CUDA devices"),
        (["--device-map", "auto", "--model", "sdlms-absent"], "--model 'sdlms-absent'"),
        (["--free-memory", "8 apples", "--model", "./absent"], "--free-memory '8 apples' is nei"),
        (["--free-memory", "8GB", "--batch-tokens", "9"], "both set the size of a batch"),
    ],
)
def test_bad_settings_are_one_clear_line(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli("capture", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert list_runs(work / "artifacts", partial=True) == []


@pytest.mark.parametrize("device_map", ["none", "auto"])
def test_a_model_that_cannot_be_built_leaves_no_run(
    cli: Cli, work: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], device_map: str
) -> None:
    shutil.copytree(tiny_model, work / "model")
    config = json.loads((work / "model/config.json").read_text())
    (work / "model/config.json").write_text(json.dumps({**config, "hidden_act": "gelu_foo"}))
    assert cli("capture", "--model", "model", "--device-map", device_map, *TASKS) == 2
    err = capsys.readouterr().err
    assert "its config asks for 'gelu_foo'" in err
    assert err.count("\n") == 1
    assert list_runs(work / "artifacts", partial=True) == []


def test_a_missing_accelerate_is_one_clear_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else find_spec(name)
    )
    assert cli("capture", "--device-map", "auto") == 2
    err = capsys.readouterr().err
    assert "pip install 'sdlms[large]'" in err
    assert err.count("\n") == 1

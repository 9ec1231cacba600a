"""Controls of the capture stage: fresh weights, shuffled tokens."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sdlms.models.loading import find_model, load_base_model
from sdlms.models.recorded import load_recorded_model
from sdlms.runs.reading import Run, list_runs
from tests.stages.killing_stages import killed_at
from tests.stages.test_capture import SMALL, Cli, newest, outputs, table, undisturbed

CPU = torch.device("cpu")
CONTROLS = ("reinit", "permute-tokens")


def captured(cli: Cli, work: Path, *arguments: object) -> Path:
    """One run of the stage on short tasks."""
    assert cli("capture", "--tasks", "qa,math", *SMALL, *arguments) == 0
    return newest(work)


def stored(run: Path, name: str) -> np.ndarray:
    with h5py.File(run / "activations.h5") as file:
        found: np.ndarray = file[name][:]
        return found


def hidden_states(model: torch.nn.Module, run: Path, document: int) -> torch.Tensor:
    """What a model computes on one document of a run, `[token, d_model]`."""
    first, last = stored(run, "/tokens/offsets")[document : document + 2]
    ids = torch.from_numpy(stored(run, "/tokens/ids")[first:last].astype(np.int64))[None]
    with torch.no_grad():
        states: torch.Tensor = model(ids, output_hidden_states=True).hidden_states[2][0]
        return states


@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama", "bert"])
def test_a_later_stage_gets_the_fresh_weights_of_the_run(
    cli: Cli, work: Path, architecture_model: Callable[[str], Path], model_type: str
) -> None:
    folder = work / "model"
    shutil.copytree(architecture_model(model_type), folder)
    trained = load_base_model(find_model(str(folder), None), torch.float32, CPU)
    (folder / "model.safetensors").unlink()  # fresh weights need no trained ones
    run = captured(
        cli, work, "--model", "model", "--control", "reinit", "--seed", 3, "--site", "resid_pre",
        "--layers", 2, "--store-dtype", "float32",
    )  # fmt: skip
    record = Run(run).start["resolved"]["model"]
    fresh = load_recorded_model(record, torch.float32, CPU)
    acts = torch.from_numpy(stored(run, "/resid_pre/layer_2"))
    first, last = stored(run, "/tokens/offsets")[1:3]
    torch.testing.assert_close(acts[first:last], hidden_states(fresh, run, 1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(acts[first:last], hidden_states(trained, run, 1), atol=1e-2)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_marked_repeatable_and_of_the_same_documents(
    cli: Cli, work: Path, tiny_model: Path, control: str
) -> None:
    # Not seed 0: the "trained" tiny model is the fresh one of that seed.
    model = ("--model", tiny_model, "--seed", 5)
    plain = captured(cli, work, *model)
    one, two = (captured(cli, work, *model, "--control", control) for _ in range(2))
    assert outputs(one) == outputs(two)
    for run, name in ((plain, "none"), (one, control)):
        start = Run(run).start
        assert (start["config"]["control"], start["resolved"]["control"]) == (name, name)
    said = f"a control, not the model itself: {control}, seed 5"
    assert said in (one / "logs/run.log").read_text()
    assert "a control" not in (plain / "logs/run.log").read_text()
    for name in ("/documents/id", "/documents/task", "/tokens/offsets", "/tokens/mask"):
        assert np.array_equal(stored(one, name), stored(plain, name))
    same = [np.array_equal(stored(one, name), stored(plain, name))
            for name in ("/tokens/ids", "/mlp_act/layer_2")]  # fmt: skip
    assert same == [control == "reinit", False]
    rows, originals = table(one), table(plain)
    for column in ("layer", "site", "task", "n_tokens", "n_documents"):
        assert [row[column] for row in rows] == [row[column] for row in originals]
    assert rows != originals
    for run, name in ((one, control), (plain, "none")):
        with h5py.File(run / "activations.h5") as file:
            assert file.attrs["control"] == name
    other = captured(cli, work, *model, "--control", control, "--seed", 6)
    assert outputs(other)["activations.h5"] != outputs(one)["activations.h5"]


def test_shuffled_documents_hold_the_same_tokens(cli: Cli, work: Path, tiny_model: Path) -> None:
    plain, control = (
        captured(cli, work, "--model", tiny_model, "--skip-first", 3, *extra)
        for extra in ((), ("--control", "permute-tokens"))
    )
    offsets = stored(plain, "/tokens/offsets")
    pieces = [np.split(stored(run, "/tokens/ids"), offsets[1:-1]) for run in (plain, control)]
    for original, shuffled in zip(*pieces, strict=True):
        assert sorted(original) == sorted(shuffled)
        assert not np.array_equal(original, shuffled)
    assert Run(plain).start["resolved"]["model"] == Run(control).start["resolved"]["model"]
    alone = captured(
        cli, work, "--model", tiny_model, "--control", "permute-tokens", "--tasks", "math"
    )
    ids = stored(alone, "/documents/id").tolist()
    both = stored(control, "/documents/id").tolist()
    with_others = pieces[1][both.index(ids[0])]
    assert np.array_equal(stored(alone, "/tokens/ids")[: len(with_others)], with_others)


def test_an_encoders_special_tokens_stay(
    cli: Cli, work: Path, architecture_model: Callable[[str], Path]
) -> None:
    """The embedded tokenizer adds none; here its end mark opens each document."""
    (work / "texts.txt").write_text("<|endoftext|>one two three four five six seven eight nine ten")
    folder = architecture_model("bert")
    run = captured(
        cli, work, "--model", folder, "--texts", "texts.txt", "--tasks", "probe",
        "--control", "permute-tokens",
    )  # fmt: skip
    assert stored(run, "/tokens/ids")[0] == 0
    assert stored(run, "/tokens/mask")[:2].tolist() == [0, 1]


@pytest.mark.parametrize("control", CONTROLS)
def test_statistics_alone_are_those_of_the_stored_control(
    cli: Cli, work: Path, tiny_relu_model: Path, control: str
) -> None:
    arguments = ("--model", tiny_relu_model, "--control", control)
    stored_run = captured(cli, work, *arguments)
    streamed = captured(cli, work, *arguments, "--no-save")
    assert (streamed / "counts.h5").read_bytes() == (stored_run / "counts.h5").read_bytes()
    assert table(streamed) == table(stored_run)


@pytest.mark.slow
@pytest.mark.parametrize("control", CONTROLS)
def test_a_killed_control_resumes_to_the_same_bytes_and_never_continues_another(
    cli: Cli, work: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    arguments = ["capture", "--model", tiny_model, "--tasks", "qa,math", *SMALL]
    marked = [*arguments, "--control", control]
    expected = undisturbed(cli, work, monkeypatch, *marked)
    assert killed_at(work, 60, *arguments)
    assert killed_at(work, 60, *marked, "--resume")  # started anew
    plain, mine = [run for run in list_runs(work / "artifacts", partial=True) if not run.complete]
    assert not mine.all_of("resume")
    assert not killed_at(work, 0, *marked, "--resume")
    assert Run(newest(work)).name == mine.name
    assert Run(newest(work)).all_of("resume")
    assert outputs(newest(work)) == expected
    assert not Run(plain.path).all_of("resume")


def test_an_unknown_control_is_one_clear_line(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("capture", "--control", "shuffle") == 2
    err = capsys.readouterr().err
    assert "--control: expected one of none, reinit, permute-tokens, got 'shuffle'" in err
    assert err.count("\n") == 1

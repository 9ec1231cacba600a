"""What si-modularity refuses: one line, exit code 2, and no run where it had not begun."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.structure import memory
from tests.stages.probe_runs import Cli, newest, noise, published
from tests.stages.structure_runs import QUICK

Streams = pytest.CaptureFixture[str]


@pytest.fixture
def refused(refused_command: Callable[..., None]) -> Callable[..., None]:
    """Checks that si-modularity is refused in one line, and leaves nothing."""

    def check(*words: str, message: str) -> None:
        refused_command("si-modularity", *words, *QUICK, message=message)

    return check


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no completed 'capture' run under"),
        (["--acts", "nothing"], "no run 'nothing'"),
        (["--acts", ""], "no run is named"),
        (["--layers", "-1"], "-1"),
        (["--layers", ""], "--layers"),
        (["--threshold", "median"], "is none of auto, fixed:X"),
        (["--threshold", "quantile:1"], "a quantile lies between 0 and 1"),
        (["--threshold", "quantile:x"], "is no number"),
        (["--threshold", "fixed:1e39"], "no activation in float32 is that large"),
        (["--threshold", "fixed:nan"], "is no number"),
        (["--nulls", "-1"], "--nulls must be >= 0, got -1."),
        (["--nulls", "two"], "--nulls: expected an integer"),
        (["--top-edges", "-5"], "--top-edges must be >= 0, got -5."),
        (["--top-edges", "1000000000"], "--top-edges must be at most 5,000,000"),
        (["--ablate", "--ablate-tokens", "0"], "--ablate-tokens must be >= 1, got 0."),
        (["--ablate-tokens", "50"], "--ablate-tokens has nothing to do without --ablate."),
        (["--no-graph", "--nulls", "3"], "--nulls has nothing to do with --no-graph."),
        (["--no-graph", "--top-edges", "9"], "--top-edges has nothing to do with --no-graph."),
        (["--nullz", "3"], "No such option: --nullz"),
        (["--device", "cuda:x"], "--device 'cuda:x' is none of"),
        (["--seed", "-1"], "--seed must be >= 0"),
    ],
)
def test_settings_are_checked_before_anything_is_read(
    refused: Callable[..., None], words: list[str], message: str
) -> None:
    refused(*words, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "0"], "layer 0"),
        (["--layers", "1,9"], "9"),
        (["--site", "resid_post"], "resid_post"),
        (["--controls", "nothing"], "no run 'nothing'"),
        (["--controls", "{none}"], "is no control"),
        (["--controls", "{reinit},{reinit}"], "are both reinit"),
        (["--acts", "{reinit}", "--controls", "{permute-tokens}"], "is a control itself (reinit)"),
        (["--acts", "{permute-tokens}", "--ablate"], "Or leave --ablate out."),
        (["--acts", "artifacts/{none}/counts.h5"], "is no run, but lies in one"),
    ],
)
def test_inputs_are_checked_before_a_run_begins(
    refused: Callable[..., None], names: dict[str, str], words: list[str], message: str
) -> None:
    given = [word.format_map(names) for word in words]
    refused(*(["--acts", names["none"]] if "--acts" not in given else []), *given, message=message)


@pytest.mark.parametrize("name", ["counts.h5", "sparsity.csv", "activations.h5"])
def test_a_damaged_capture_is_one_line(
    refused: Callable[..., None], names: dict[str, str], work: Path, name: str
) -> None:
    path = work / "artifacts" / names["none"] / name
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused("--acts", names["none"], message=name)


def test_what_does_not_fit_the_memory_is_one_line(
    refused: Callable[..., None], names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_of", lambda _: (10_000, 5_000))
    refused("--acts", names["none"], message="5.0 kB are free")


def test_pooled_activations_and_other_stages_are_refused(
    refused: Callable[..., None], cli: Cli, work: Path
) -> None:
    published(work, noise(20))
    assert cli("probe", "--kinds", "mass_mean", *QUICK) == 0
    refused("--acts", newest(work).name, message="is a 'probe' run; a 'capture' or 'sae-latents'")


def test_a_capture_of_one_task_has_no_specialization_and_says_so(
    refused: Callable[..., None], cli: Cli, work: Path, capsys: Streams
) -> None:
    (work / "texts.txt").write_text("\n\n".join(f"{i} one of many words " * 20 for i in range(12)))
    capture = ["--texts", "texts.txt", "--model", "sdlms-small", "--layers", "1"]
    assert cli("capture", *capture, *QUICK) == 0
    name = newest(work).name
    refused("--acts", name, "--ablate", message="has one task, on which no unit can specialize")
    assert cli("si-modularity", "--acts", name, "--nulls", "1", *QUICK) == 0
    row, *_ = (newest(work) / "si_modularity.csv").read_text().splitlines()[1:]
    assert "one task" in row


def test_a_folder_that_cannot_be_written_is_one_line(
    cli: Cli, names: dict[str, str], work: Path, capsys: Streams
) -> None:
    elsewhere = work / "a file"
    elsewhere.write_text("")
    shutil.copytree(work / "artifacts" / names["none"], work / "here" / names["none"])
    words = ["--acts", str(work / "here" / names["none"]), "--artifacts", str(elsewhere)]
    assert cli("si-modularity", *words, *QUICK) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a file" in line

"""`sdlms pipeline`: what it prints, what it makes and what it does not make again."""

import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.cli import NAMED
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.tools.pipeline import RESULTS
from tests.chain_program import PROGRAM
from tests.conftest import Cli

STEPS = """
[common]
threads = 1
seed = 0

[[step]]
stage = "capture"
model = "sdlms-small"
tasks = ["math", "qa"]
layers = ["50%"]
max_tokens = 1_500

[[step]]
name = "structure"
stage = "si-modularity"
label = "my-label"
acts = "{capture}"
graph = false
"""
COMMANDS = [
    "sdlms capture --threads=1 --seed=0 --model=sdlms-small --tasks=math,qa --layers=50% "
    "--max-tokens=1500",
    "sdlms si-modularity --threads=1 --seed=0 --label=my-label '--acts={capture}' --no-graph",
]
Result = subprocess.CompletedProcess[str]


def pipeline(folder: Path, *words: str) -> Result:
    command = [sys.executable, "-P", "-m", "sdlms", "pipeline", "--config", "steps.toml", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with a pipeline that was carried out, and what it said."""
    folder = tmp_path_factory.mktemp("Läufe und Schritte")
    (folder / "steps.toml").write_text(STEPS)
    return folder, pipeline(folder)


def runs_in(folder: Path) -> list[Run]:
    return list_runs(folder / "artifacts", partial=True)


def test_each_step_prints_its_run_and_a_table_says_where_to_look(
    finished: tuple[Path, Result],
) -> None:
    folder, result = finished
    assert result.returncode == 0, result.stderr
    capture, structure = runs_in(folder)
    assert (capture.stage, structure.stage) == ("capture", "si-modularity")
    paths = [f"artifacts/{run.name}" for run in (capture, structure)]
    assert result.stdout.splitlines() == paths
    assert structure.name.endswith("_my-label")
    assert [record["run"] for record in structure.all_of("input")] == [capture.name]
    head, first, second = (line.split() for line in result.stderr.splitlines()[-3:])
    assert head == ["step", "run", "took", "result"]
    assert (first[:2], first[-1]) == (["capture", "made"], f"{paths[0]}/sparsity.csv")
    assert (second[:2], second[-1]) == (["structure", "made"], f"{paths[1]}/si_modularity.csv")
    assert [(folder / file[-1]).is_file() for file in (first, second)] == [True, True]


def test_what_is_complete_is_not_made_again(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    capture, structure = runs_in(folder)
    remove(structure)
    result = pipeline(folder, "--only", "structure", "-q")  # reads the other
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"artifacts/{capture.name}"
    assert "step" not in result.stderr
    assert [run.stage for run in runs_in(folder)] == ["capture", "si-modularity"]


def test_a_dry_run_checks_and_prints_and_does_nothing(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "steps.toml").write_text(STEPS)
    assert cli("pipeline", "--config", "steps.toml", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == COMMANDS
    assert cli("pipeline", "--config", "steps.toml", "--dry-run", "--only", "capture") == 0
    assert capsys.readouterr().out.splitlines() == COMMANDS[:1]
    assert list(work.iterdir()) == [work / "steps.toml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sdlms: --config names no file of steps. One comes with sdlms: "),
        (["--config", "none.toml"], "sdlms: --config none.toml: No such file or directory."),
        (["--config", "bad.toml"], "sdlms: bad.toml: step capture: unknown key 'layer'. Did you"),
        (["--config", "steps.toml", "--only", "strcture"], "sdlms: --only: there is no step 'strc"),
        (["--config", "steps.toml", "--only", ""], "sdlms: --only: there is no step ''."),
        (["--confg", "steps.toml"], "sdlms: No such option: --confg. Did you mean '--config'?"),
        (["steps.toml"], "sdlms: Got unexpected extra argument"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_begun(
    cli: Cli, work: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "steps.toml").write_text(STEPS)
    (work / "bad.toml").write_text(STEPS.replace("layers", "layer"))
    assert cli("pipeline", *words) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith(message) and said.count("\n") == 1
    assert not (work / "artifacts").exists()


def test_the_error_of_a_step_is_shown_once_and_then_which_step_it_was(
    cli: Cli, work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = STEPS.replace("{capture}", "20261120_no_such_run")
    (work / "steps.toml").write_text(text[text.rindex("[[step]]") :])
    assert cli("pipeline", "--config", "steps.toml") == 2
    printed, said = capfd.readouterr()
    assert printed == ""
    assert said.splitlines() == [
        "step 1 of 1: structure (si-modularity)",
        "sdlms: no run '20261120_no_such_run' under artifacts/. See: sdlms runs list",
        "step structure (si-modularity) failed; the same command goes on from there",
    ]


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("bug", 1, "step small failed; the same command goes on from there\n"),
        (
            "killed",
            2,
            "sdlms: step small was ended by SIGKILL: out of memory?; the same command goes "
            "on from there\n",
        ),
    ],
)
def test_it_exits_as_its_step_did(work: Path, ends: str, code: int, said: str) -> None:
    (work / "steps.toml").write_text(f'[[step]]\nstage = "small"\nends = "{ends}"\n')
    command = [*PROGRAM, "pipeline", "--config", "steps.toml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (code, "")
    assert result.stderr.endswith(said)


def test_every_stage_has_a_file_to_look_into() -> None:
    assert set(NAMED) <= set(RESULTS)

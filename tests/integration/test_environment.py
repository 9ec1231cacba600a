"""Where people work: without a network, on a full disk, in two terminals at once.

That folders may have spaces and other letters is tried by every test that reads the study.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.runs.reading import Run, list_runs
from tests.integration.studies import TEXTS, Study, linked, untimed

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# The command line in a process that can reach nobody, and says so if it tries.
ALONE = """
import socket, sys
def refused(*words):
    print("NETWORK", words[1:2], file=sys.stderr)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = refused
socket.getaddrinfo = lambda *words, **named: refused(None, words[0])
from sdlms.cli import main
main()
"""


def started(command: list[str], folder: Path, most_bytes: int = 0) -> "subprocess.Popen[str]":
    """The command line without a network, perhaps with a limit on the size of each file."""
    environment = {name: text for name, text in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder / "home")}
    # Not by preexec_fn, which a process with threads must not use.
    limited = ["bash", "-c", 'ulimit -f "$0"; exec "$@"', str(most_bytes // 1024)]
    return subprocess.Popen(
        [*(limited if most_bytes else []), sys.executable, "-c", ALONE, *command, "--quiet"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def ended(process: "subprocess.Popen[str]", code: int) -> tuple[str, str]:
    """What the process printed, on both streams."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err
    assert "NETWORK" not in err or code == 2
    return out, err


@pytest.fixture
def place(study: Study, tmp_path: Path) -> Path:
    """A folder with the study's texts and runs."""
    folder = tmp_path / "noch ein Ordner é"
    folder.mkdir()
    (folder / TEXTS).symlink_to(study.folder / TEXTS)
    linked(list(study.runs.values()), folder / "artifacts")
    return folder


def test_two_terminals_without_a_network(study: Study, place: Path) -> None:
    """The same command twice at once: two runs, and all of the study's bytes in both."""
    before = {run.name for run in list_runs(place / "artifacts")}
    both = [started(study.command("capture"), place) for _ in range(2)]
    paths = [place / ended(process, 0)[0].strip() for process in both]
    new = {run.name for run in list_runs(place / "artifacts", partial=True)} - before
    assert {path.name for path in paths} == new and len(new) == 2
    for path in paths:
        assert Run(path).complete
        assert untimed(path) == untimed(study.runs["capture"])


def test_a_hub_model_without_a_network_is_one_line(place: Path) -> None:
    command = ["capture", "--model", "EleutherAI/pythia-70m-deduped", "--artifacts", "none"]
    out, err = ended(started(command, place), 2)
    (line,) = (line for line in err.splitlines() if not line.startswith("NETWORK"))
    assert out == ""
    assert line.startswith("sdlms: --model EleutherAI/pythia-70m-deduped: the hub cannot be")
    assert not (place / "none").exists()


@pytest.mark.parametrize(("stage", "most_bytes"), [("capture", 200 * 1024), ("report", 40 * 1024)])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    stage: str, most_bytes: int, study: Study, place: Path
) -> None:
    artifacts = place / "artifacts"
    before = {run.path for run in list_runs(artifacts)}
    out, err = ended(started(study.command(stage), place, most_bytes), 2)
    *hint, line = err.splitlines()
    assert out == ""
    assert line.startswith("sdlms: cannot write ") and line.endswith(": File too large.")
    assert len(hint) == 1 and "--resume continues it" in hint[0]
    assert {run.path for run in list_runs(artifacts)} == before  # nothing half-written is shown
    out, _ = ended(started([*study.command(stage), "--resume"], place), 0)
    run = Run(place / out.strip())
    assert run.complete and run.all_of("resume")
    assert untimed(run.path) == untimed(study.runs[stage])
    assert [each for each in list_runs(artifacts, partial=True) if not each.complete] == []

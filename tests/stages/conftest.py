"""What tests of several stages share: captures, runs beside them, how a command is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.runs.reading import list_runs
from tests.conftest import Cli
from tests.stages.gating_runs import runs_beside
from tests.stages.structure_runs import captures, placed


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`control -> run`, made once."""
    return captures(tmp_path_factory)


@pytest.fixture
def names(runs: dict[str, Path], work: Path) -> dict[str, str]:
    """`control -> name` of copies under the test's own `artifacts/`."""
    return placed(runs, work)


@pytest.fixture(scope="session")
def beside(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What dynamic-k reads of other stages, by a short name; made once."""
    folder = tmp_path_factory.mktemp("beside")
    return runs_beside(folder, placed(runs, folder))


@pytest.fixture
def given(beside: dict[str, Path], work: Path) -> dict[str, str]:
    """`short name -> name` of copies under the test's own `artifacts/`."""
    return placed(beside, work)


@pytest.fixture
def refused_command(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., None]:
    """Checks that a command is refused in one line, exit code 2, and leaves nothing."""

    def check(*words: object, message: str) -> None:
        before = list_runs(work / "artifacts", partial=True)
        existed = (work / "artifacts").exists()
        capsys.readouterr()
        code = cli(*words)
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        (line,) = err.splitlines()
        assert line.startswith("sdlms: ") and message in line, line
        assert list_runs(work / "artifacts", partial=True) == before
        assert (work / "artifacts").exists() == existed

    return check

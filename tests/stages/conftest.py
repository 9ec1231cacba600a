"""Captures that several tests of si-modularity read, and runs that those of dynamic-k read."""

from pathlib import Path

import pytest

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

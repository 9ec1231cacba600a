"""Captures that several tests of si-modularity read."""

from pathlib import Path

import pytest

from tests.stages.structure_runs import captures, placed


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`control -> run`, made once."""
    return captures(tmp_path_factory)


@pytest.fixture
def names(runs: dict[str, Path], work: Path) -> dict[str, str]:
    """`control -> name` of copies under the test's own `artifacts/`."""
    return placed(runs, work)

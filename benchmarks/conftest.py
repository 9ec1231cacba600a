"""What all benchmarks share: the command line's environment, sizes, a model, a place to report."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.timing import Report, set_environment

set_environment()

from benchmarks.acts_data import SHAPES, Shape  # noqa: E402
from benchmarks.sides import prepared  # noqa: E402
from benchmarks.workload import SIZES, Size, build_model  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Peers warn about themselves; that is no failure here."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def size() -> Size:
    """`SDLMS_BENCH_SIZE` (full or smoke), its rounds overruled by `SDLMS_BENCH_ROUNDS`."""
    chosen = SIZES[os.environ.get("SDLMS_BENCH_SIZE", "full")]
    rounds = os.environ.get("SDLMS_BENCH_ROUNDS")
    return chosen.with_rounds(int(rounds)) if rounds else chosen


@pytest.fixture(scope="session")
def model_folder(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, saved as transformers does, with a tokenizer."""
    return build_model(tmp_path_factory.mktemp("model"), size)


@pytest.fixture(scope="session")
def shape(size: Size) -> Shape:
    """How many activations the Acts benchmarks sweep over."""
    return SHAPES[size.name]


@pytest.fixture(scope="session")
def acts_folder(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their files; `SDLMS_BENCH_ACTS` names a folder in which they are kept (8.5 GB)."""
    return prepared(os.environ.get("SDLMS_BENCH_ACTS"), tmp_path_factory.mktemp("acts"), shape)


@pytest.fixture
def publish(capsys: pytest.CaptureFixture[str], size: Size) -> Iterator[Callable[[Report], None]]:
    """Print a report past pytest's capture: a table, then one JSON line."""

    def show(report: Report) -> None:
        with capsys.disabled():
            print(report.text(size.name))

    yield show

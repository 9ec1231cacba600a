"""Every stage twice: the pipeline's runs, made by processes of their own, and made again here.

Kills, interrupts and other seeds are tried stage by stage in `tests/stages`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.cli import NAMED
from tests.integration.studies import Study, linked, untimed
from tests.stages.gating_runs import run_in

pytestmark = pytest.mark.slow
QUIET = "--quiet"
# What the small study has no step of.
BESIDE = {
    "sae-evaluate": ["--sae={sae-train}", "--eval-tokens=500", "--ce-tokens=200", "--threads=1"],
    "scaling": ["--runs={capture},{medium}", "--depths=50%"],
}
Again = Callable[[str], Path]


@pytest.fixture(scope="module")
def medium(study: Study) -> Path:
    """A capture of a second model."""
    words = [word.replace("sdlms-small", "sdlms-medium") for word in study.command("capture")]
    return run_in(study.folder, [*words, QUIET])


@pytest.fixture
def again(study: Study, medium: Path, tmp_path: Path) -> Again:
    """Makes the run of a stage from the runs of the study, in another artifacts folder."""
    runs = {**study.runs, "medium": medium}
    linked(list(runs.values()), tmp_path / "artifacts")
    (tmp_path / "artifacts").chmod(0o700)

    def make(stage: str) -> Path:
        if stage in BESIDE:
            names = {name: run.name for name, run in runs.items()}
            words = [stage, *(word.format(**names) for word in BESIDE[stage])]
        else:
            words = study.command(stage)
        for texts in study.folder.glob("*.jsonl"):
            if not (tmp_path / texts.name).exists():
                (tmp_path / texts.name).symlink_to(texts)
        return run_in(tmp_path, [*words, QUIET])

    return make


@pytest.mark.parametrize("stage", list(NAMED))
def test_the_same_command_gives_the_same_bytes(stage: str, study: Study, again: Again) -> None:
    first = again(stage) if stage in BESIDE else study.runs[stage]
    second = again(stage)
    assert first != second
    assert untimed(first)
    assert untimed(first) == untimed(second)

"""A logit-lens run that is killed or interrupted goes on, and its files are the same."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdlms.lens import streaming, tuning
from sdlms.lens.residuals import Residuals
from sdlms.runs.reading import Run
from sdlms.storage.lens_file import LensReader
from tests.stages.lens_runs import SMALL
from tests.stages.probe_runs import Cli, newest, outputs

KILLING = Path(__file__).with_name("killing_stages.py")
WORDS = ["logit-lens", "--model", "sdlms-small", "--tasks", "math,qa", *SMALL]
TRAINED = ["--tuned", "--tuned-steps", "3", "--tuned-tasks", "prose", "--tuned-tokens", "400"]


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[BaseException], set[int]], list[int]]:
    """Makes some forwards fail, counted over all runs; returns the sizes of all that began."""

    def arm(error: type[BaseException], fatal: set[int]) -> list[int]:
        begun: list[int] = []
        real = Residuals.run

        def counted(self: Residuals, input_ids: torch.Tensor) -> torch.Tensor:
            begun.append(input_ids.numel())
            if len(begun) in fatal:
                raise error("out of memory")
            return real(self, input_ids)

        monkeypatch.setattr(Residuals, "run", counted)
        return begun

    return arm


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_documents(
    cli: Cli, work: Path
) -> None:
    found = []
    for seed in (0, 0, 1):
        assert cli(*WORDS, "--target", " the", "--seed", seed) == 0
        found.append(outputs(newest(work)))
    assert found[0] == found[1]
    assert found[0]["lens.h5"] != found[2]["lens.h5"]


def test_an_interrupt_is_resumed_after_its_last_block(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, deadly: Callable[..., list[int]]
) -> None:
    monkeypatch.setattr(streaming, "BLOCK_TOKENS", 1)  # a block and a batch per document
    words = [*WORDS, "--batch-tokens", "1", "--target", " the"]
    assert cli(*words) == 0
    whole = newest(work)
    begun = deadly(KeyboardInterrupt, {3})
    assert cli(*words) == 130
    assert cli(*words, "--resume") == 0
    resumed = newest(work)
    assert resumed != whole and len(Run(resumed).all_of("resume")) == 1
    assert outputs(resumed) == outputs(whole)
    with LensReader(whole / "lens.h5") as reader:
        n_documents = reader.rows().n_documents
    # The interrupted one twice, and the one before where its checkpoint was not begun yet.
    assert n_documents + 1 <= len(begun) <= n_documents + 2


def test_training_is_not_done_again_once_its_lens_is_saved(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*WORDS, *TRAINED]
    assert cli(*words) == 0
    whole = newest(work)
    real, calls = streaming.Measuring.fill, []

    def once(self: streaming.Measuring, *given: object) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(self, *given)

    monkeypatch.setattr(streaming.Measuring, "fill", once)
    assert cli(*words) == 130
    monkeypatch.setattr(tuning, "_Step", None)  # another step of training would fail
    assert cli(*words, "--resume") == 0
    assert outputs(newest(work)) == outputs(whole)


def test_out_of_memory_halves_batches_and_says_so(
    cli: Cli, work: Path, deadly: Callable[..., list[int]]
) -> None:
    begun = deadly(torch.OutOfMemoryError, {1})
    assert cli(*WORDS) == 0
    (event,) = Run(newest(work)).all_of("batch_halved")
    assert event["batch_tokens"] == begun[0] // 2 or event["batch_tokens"] == 1024
    assert max(begun[1:]) <= event["batch_tokens"]


def test_a_single_document_that_does_not_fit_is_one_line(
    cli: Cli, work: Path, deadly: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    deadly(torch.OutOfMemoryError, set(range(1, 99)))
    assert cli(*WORDS) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sdlms: ")]
    assert len(line) == 1 and "out of memory on a single document of" in line[0]


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(work: Path) -> None:
    done = subprocess.run(
        [sys.executable, KILLING, "2", *WORDS, *TRAINED, "--target", " the"],
        cwd=work, env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # behind the paths of finished runs
    assert (found["different"], found["unfinished"]) == (0, [])
    assert found["kills"] >= 2 and found["resumed"] >= 1

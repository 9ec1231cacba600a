"""A run of dynamic-k that is killed or interrupted goes on, and its tables are the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.dynamic import study
from sdlms.runs.parts import Part
from sdlms.runs.reading import Run
from tests.stages.gating_runs import FAST, MASKED, untimed
from tests.stages.probe_runs import Cli, newest

KILLING = Path(__file__).with_name("killing_stages.py")


@pytest.mark.slow
def test_an_interrupt_is_resumed_where_it_was(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["dynamic-k", *FAST, "--rule", "random,threshold", "--layers", "1"]
    assert cli(*words) == 0
    whole = newest(work)
    calls: list[str] = []
    real = {name: getattr(study, name) for name in ("measure_quality", "measure_speed")}
    deadly = [3, 5]

    def counted(name: str, *arguments: object) -> Part:
        calls.append(name)
        if len(calls) in deadly:
            raise KeyboardInterrupt
        part: Part = real[name](*arguments)
        return part

    for name in real:
        monkeypatch.setattr(study, name, lambda *words, name=name: counted(name, *words))
    assert cli(*words) == 130
    assert cli(*words, "--resume") == 130
    assert cli(*words, "--resume") == 0
    masks, times = ["measure_quality"], ["measure_speed"]
    # Dense, random and threshold, the last begun twice; then both timings, the second twice.
    assert calls == 4 * masks + 3 * times
    assert len(Run(newest(work)).all_of("resume")) == 2 and newest(work) != whole
    assert untimed(newest(work)) == untimed(whole)


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(
    work: Path, given: dict[str, str]
) -> None:
    words = ["dynamic-k", *MASKED, "--layers", "1", "--sae", given["sae"], "--tasks", "math,qa"]
    done = subprocess.run(
        [sys.executable, KILLING, "2", *words, "--rule", "post-norm,top-p"],
        cwd=work, env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # behind the paths of finished runs
    assert (found["different"], found["unfinished"]) == (0, [])
    assert found["kills"] >= 2 and found["resumed"] >= 1

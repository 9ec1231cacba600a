"""Whether memory grows with the number of tokens: the real command line at 1x and at 10x."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.timing import Report
from benchmarks.workload import Size
from sdlms.runs.reading import list_runs, remove

# A small process in between: a child starts with its parent's peak, and pytest's is large.
LAUNCHER = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
LONGEST = 1500  # tokens of a generated document
WORDS = "the of and to in is was for on that with as by at from it an be are this which or".split()


@pytest.mark.parametrize("save", [True, False], ids=["save", "no-save"])
def test_peak_memory_at_ten_times_the_tokens(
    save: bool, size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Peak resident memory of `sdlms capture`, one run each: it hardly varies."""
    few = size.tokens // 3
    texts = write_texts(tmp_path / "generated.txt", 10 * few)
    report = Report(f"memory, {'activations saved' if save else 'statistics only'}", unit="MB")
    for n_tokens in (few, 10 * few):
        command = [
            *(sys.executable, "-m", "sdlms", "capture", "--quiet"),
            *("--model", str(model_folder), "--texts", str(texts)),
            *("--max-tokens", str(n_tokens), "--artifacts", str(tmp_path / "artifacts")),
            *([] if save else ["--no-save"]),
        ]
        report.figures[f"{n_tokens:,} tokens"] = [peak_megabytes(command)]
        (run,) = list_runs(tmp_path / "artifacts")
        captured = run.all_of("done")[0]["tokens"]
        assert run.complete
        assert n_tokens - LONGEST < captured <= n_tokens
        remove(run)
    small, large = report.figures.values()
    report.add_ratio("10x tokens / 1x tokens", large, small, "<= 1.1")
    publish(report)


def peak_megabytes(command: list[str]) -> float:
    """Run a command; its peak resident memory."""
    launched = [sys.executable, "-c", LAUNCHER, *command]
    done = subprocess.run(launched, capture_output=True, text=True, check=True)
    code, peak = done.stdout.split()
    assert code == "0", done.stderr
    return int(peak) / (1e6 if sys.platform == "darwin" else 1e3)


def write_texts(path: Path, n_tokens: int) -> Path:
    """Paragraphs of frequent and rare words, more than enough for `n_tokens`."""
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n_tokens // 100):
            n_words = int(generator.integers(40, 300))
            chosen = [WORDS[index] for index in generator.integers(0, len(WORDS), n_words)]
            chosen[::7] = [f"{number:x}" for number in generator.integers(0, 1 << 20, n_words)[::7]]
            file.write(" ".join(chosen) + ".\n\n")
    return path

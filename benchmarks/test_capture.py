"""What capturing costs beyond the forward pass that it cannot do without."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from benchmarks.stage import Bench, check_outputs
from benchmarks.timing import Report, Rounds, alternate
from benchmarks.workload import (
    BUDGET,
    LAYERS,
    Size,
    header,
    load_model,
    make_rows,
    mixed_lengths,
    padded_tokens,
    run_stopped,
    run_whole,
)
from sdlms.storage.files import sha256_of

_BARE, _WHOLE = "bare, to layer 5", "bare, six layers"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_capture_against_bare_forward(
    dtype: str, size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Three layers' neurons to disk with statistics and hashing; and statistics only."""
    model = load_model(model_folder, getattr(torch, dtype))
    what = header(model.config.intermediate_size)
    warm = Bench(model, make_rows(mixed_lengths(2_000), size.d_vocab), what, tmp_path)
    for side in _sides(warm).values():
        side()
    check_outputs(warm)
    warm.tidy()
    bench = Bench(model, make_rows(mixed_lengths(size.tokens), size.d_vocab), what, tmp_path)
    hashed: list[float] = []
    rounds = alternate(_sides(bench), size.rounds, lambda: _tidy(bench, hashed))
    publish(_report(dtype, bench, rounds, hashed))


def _sides(bench: Bench) -> dict[str, Callable[[], Mapping[str, float] | None]]:
    """Bare forwards and captures of the same batches."""
    model, rows, batches = bench.model, bench.rows, bench.batches
    return {
        _BARE: lambda: run_stopped(model, rows, batches, max(LAYERS)),
        _WHOLE: lambda: run_whole(model, rows, batches),
        "capture": bench.save,
        "statistics only": bench.stream,
    }


def _tidy(bench: Bench, hashed: list[float]) -> None:
    """Time the hash of `activations.h5` by itself, then remove the run."""
    for path in bench.saved():
        began = time.perf_counter()
        sha256_of(path)
        hashed.append(time.perf_counter() - began)
    bench.tidy()


def _report(dtype: str, bench: Bench, rounds: Rounds, hashed: list[float]) -> Report:
    """Times of all pieces and the ratios that matter."""
    report = Report(
        f"capture, {dtype}",
        facts={
            "tokens": bench.rows.n_tokens,
            "documents": bench.rows.n_documents,
            "padded_tokens": padded_tokens(bench.rows, bench.batches),
            "threshold_sample_tokens": int(bench.rows.lengths[bench.sample].sum()),
            "layers": LAYERS,
            "batch_tokens": BUDGET,
            "equal_to": "the recorded forward, bit by bit; counts of both ways equal",
        },
    )
    report.add_rounds(rounds)
    report.figures["sha256 of activations.h5, alone"] = hashed
    bare, parts = rounds.wall[_BARE], rounds.parts
    streamed = rounds.wall["statistics only"]
    sample = parts["statistics only"]["threshold_sample"]
    without_sample = [all_ - part for all_, part in zip(streamed, sample, strict=True)]
    report.add_ratio("capture / bare to layer 5", rounds.wall["capture"], bare, "<= 1.10")
    report.add_ratio("the same in CPU seconds", rounds.cpu["capture"], rounds.cpu[_BARE])
    report.add_ratio("its forward and writing alone", parts["capture"]["forward"], bare)
    report.add_ratio("statistics only / bare to layer 5", without_sample, bare, "<= 1.05")
    report.add_ratio("its forward alone", parts["statistics only"]["forward"], bare)
    report.add_ratio("threshold sample", sample, bare, "apart")
    report.add_ratio("capture / bare six layers", rounds.wall["capture"], rounds.wall[_WHOLE])
    return report

"""What capturing costs beyond the forward pass that it cannot do without."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.timing import Report, Rounds, alternate
from benchmarks.workload import (
    BUDGET,
    CPU,
    LAYERS,
    Size,
    capture_batches,
    header,
    load_model,
    make_rows,
    mixed_lengths,
    run_stopped,
    run_whole,
)
from sdlms.acts.capturing import Capturing
from sdlms.acts.statistics import SAMPLE_TOKENS, rule_of
from sdlms.models.forward import padded_inputs
from sdlms.models.inputs import Inputs
from sdlms.models.loading import ModelSource
from sdlms.models.recording import recording
from sdlms.models.tokens import Tokens, documents_within
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.stages import capture
from sdlms.storage.activations import Rows
from sdlms.storage.files import sha256_of
from sdlms.tasks import Task

_BARE, _WHOLE = "bare, to layer 5", "bare, six layers"


@dataclass(frozen=True)
class Bench:
    """One model, its documents, and where runs go."""

    model: PreTrainedModel
    folder: Path
    rows: Rows
    artifacts: Path

    @property
    def batches(self) -> list[list[int]]:
        """The batches that the capture runs."""
        return capture_batches(self.rows)

    @property
    def sample(self) -> list[int]:
        """The documents from which thresholds are estimated, as the stage takes them."""
        return documents_within(self.rows.lengths, SAMPLE_TOKENS, seed=0)

    def plan(self) -> capture.Plan:
        """What the stage knows before it loads the model."""
        source = ModelSource("random", self.folder)
        config = self.model.config
        what = header(config.intermediate_size)
        return capture.Plan(
            inputs=Inputs(source, config, Tokens(self.rows, {})),
            device=CPU,
            header=what,
            rules={key: rule_of(key[0], "gelu", gated=False) for key in what.units},
            sample=self.sample,
            tasks=[Task("random", [], 0, {})],
        )

    def run(self, work: Callable[[capture.Plan, Capturing, RunWriter], None]) -> dict[str, float]:
        """The stage from the loaded model to the published run; seconds of its phases."""
        began = time.perf_counter()
        plan = self.plan()
        with RunWriter("capture", {}, RunOptions(artifacts=self.artifacts)) as out:
            out.start({}, {})
            capturing = Capturing(
                self.model, plan.header, torch.get_num_threads(), BUDGET, out.scratch, _no_halving
            )
            work(plan, capturing, out)
            capture._tabulate(plan, out)
            phases: dict[str, float] = dict(out.summary["phase_seconds"])
            worked = time.perf_counter()
        phases["rest of hashing, publish"] = time.perf_counter() - worked
        phases["start and creating files"] = time.perf_counter() - began - sum(phases.values())
        return phases

    def tidy(self) -> None:
        """Remove all runs."""
        for run in list_runs(self.artifacts):
            remove(run)


def _no_halving(budget: int) -> None:
    raise MemoryError(f"batches were halved to {budget} tokens; the machine is too small")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_capture_against_bare_forward(
    dtype: str, size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Three layers' neurons to disk with statistics and hashing; and statistics only."""
    model = load_model(model_folder, getattr(torch, dtype))
    d_vocab = size.d_vocab
    warm = Bench(model, model_folder, make_rows(mixed_lengths(2_000), d_vocab), tmp_path)
    for side in _sides(warm).values():
        side()
    check_outputs(warm)
    warm.tidy()
    bench = Bench(model, model_folder, make_rows(mixed_lengths(size.tokens), d_vocab), tmp_path)
    hashed: list[float] = []
    rounds = alternate(_sides(bench), size.rounds, lambda: _tidy(bench, hashed))
    publish(_report(dtype, bench, rounds, hashed))


def _sides(bench: Bench) -> dict[str, Callable[[], Mapping[str, float] | None]]:
    """Bare forwards and captures of the same batches."""
    model, rows, batches = bench.model, bench.rows, bench.batches
    return {
        _BARE: lambda: run_stopped(model, rows, batches, max(LAYERS)),
        _WHOLE: lambda: run_whole(model, rows, batches),
        "capture": lambda: bench.run(capture._save),
        "statistics only": lambda: bench.run(capture._stream),
    }


def _tidy(bench: Bench, hashed: list[float]) -> None:
    """Time the hash of `activations.h5` by itself, then remove the run."""
    for run in list_runs(bench.artifacts):
        path = run.path / capture.ACTIVATIONS
        if path.exists():
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
            "padded_tokens": sum(
                len(batch) * int(bench.rows.lengths[batch].max()) for batch in bench.batches
            ),
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


def check_outputs(bench: Bench) -> None:
    """The stored activations are those of the forward; both ways count the same."""
    saved, streamed = (run.path for run in list_runs(bench.artifacts))
    if not (saved / capture.ACTIVATIONS).exists():
        saved, streamed = streamed, saved
    with (
        h5py.File(saved / capture.ACTIVATIONS) as stored,
        recording(bench.model, LAYERS, ["mlp_act"]) as recorded,
    ):
        for batch in bench.batches:
            found = recorded.run(*padded_inputs(bench.rows, batch, CPU, causal=True))
            for layer in LAYERS:
                acts = found["mlp_act", layer].half().numpy()
                for row, document in enumerate(batch):
                    first, last = bench.rows.offsets[document : document + 2]
                    on_disk = stored[f"mlp_act/layer_{layer}"][first:last]
                    np.testing.assert_array_equal(on_disk, acts[row, : last - first])
    with h5py.File(saved / capture.COUNTS) as one, h5py.File(streamed / capture.COUNTS) as other:
        for layer in LAYERS:
            name = f"mlp_act/layer_{layer}/counts"
            np.testing.assert_array_equal(one[name][:], other[name][:])
    assert all(Run(path).complete for path in (saved, streamed))

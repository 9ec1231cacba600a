"""The capture stage's own steps on prepared documents: from a loaded model to a published run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.workload import BUDGET, capture_batches
from sdlms.acts.capturing import Capturing
from sdlms.acts.statistics import SAMPLE_TOKENS, rule_of
from sdlms.models.forward import padded_inputs
from sdlms.models.inputs import Inputs
from sdlms.models.loading import ModelSource
from sdlms.models.recording import Key, recording
from sdlms.models.tokens import Tokens, documents_within
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.stages import capture
from sdlms.storage.activations import Header, dataset_name
from sdlms.storage.counts import masked_lengths
from sdlms.storage.rows import Rows
from sdlms.tasks import Task


@dataclass(frozen=True)
class Bench:
    """One model, its documents, what is recorded of them, and where runs go.

    Attributes:
        model: a base model in evaluation mode, on its device.
        rows: tokens and documents.
        header: sites, layers and stored types.
        artifacts: folder of the runs.
        budget: tokens in a batch, padding included.
    """

    model: PreTrainedModel
    rows: Rows
    header: Header
    artifacts: Path
    budget: int = BUDGET

    @property
    def keys(self) -> list[Key]:
        """Sites and layers, as the forward records them."""
        return [("mlp_act", layer) for layer in self.header.layers]

    @property
    def batches(self) -> list[list[int]]:
        """The batches that the capture runs."""
        return capture_batches(self.rows, self.budget)

    @property
    def sample(self) -> list[int]:
        """The documents from which thresholds are estimated, as the stage takes them."""
        return documents_within(masked_lengths(self.rows), SAMPLE_TOKENS, seed=0)

    def plan(self) -> capture.Plan:
        """What the stage knows before it loads the model."""
        source, what = ModelSource(self.header.model, Path()), self.header
        return capture.Plan(
            inputs=Inputs(source, self.model.config, Tokens(self.rows, {})),
            device=self.model.device,
            header=what,
            rules={
                key: rule_of(key[0], what.activation_function, gated=what.gated)
                for key in what.units
            },
            sample=self.sample,
            tasks=[Task(name, [], 0, {}) for name in dict.fromkeys(self.rows.document_tasks)],
        )

    def run(self, work: Callable[[capture.Plan, Capturing, RunWriter], None]) -> dict[str, float]:
        """The stage from the loaded model to the published run; seconds of its phases."""
        began = time.perf_counter()
        plan = self.plan()
        with RunWriter("capture", {}, RunOptions(artifacts=self.artifacts)) as out:
            out.start({}, {})
            threads = torch.get_num_threads()
            capturing = Capturing(
                self.model, plan.header, threads, self.budget, out.scratch, _no_halving
            )
            work(plan, capturing, out)
            capture._tabulate(plan, out)
            phases: dict[str, float] = dict(out.summary["phase_seconds"])
            worked = time.perf_counter()
        phases["rest of hashing, publish"] = time.perf_counter() - worked
        phases["start and creating files"] = time.perf_counter() - began - sum(phases.values())
        return phases

    def save(self) -> dict[str, float]:
        """What the stage does by default: activations, statistics, hashes."""
        return self.run(capture._save)

    def stream(self) -> dict[str, float]:
        """What the stage does with `--no-save`: statistics only."""
        return self.run(capture._stream)

    def saved(self) -> list[Path]:
        """`activations.h5` of every run that has one."""
        paths = [run.path / capture.ACTIVATIONS for run in list_runs(self.artifacts)]
        return [path for path in paths if path.exists()]

    def tidy(self) -> None:
        """Remove all runs."""
        for run in list_runs(self.artifacts):
            remove(run)


def _no_halving(budget: int) -> None:
    raise MemoryError(f"batches were halved to {budget} tokens; the machine is too small")


def check_outputs(bench: Bench) -> None:
    """The stored activations are those of the forward, bit by bit; both ways count the same.

    There is one run of `save` and one of `stream`, of documents that are all in the sample.
    """
    saved, streamed = (run.path for run in list_runs(bench.artifacts))
    if not (saved / capture.ACTIVATIONS).exists():
        saved, streamed = streamed, saved
    with (
        h5py.File(saved / capture.ACTIVATIONS) as stored,
        recording(bench.model, bench.header.layers, ["mlp_act"]) as recorded,
    ):
        for batch in bench.batches:
            found = recorded.run(*padded_inputs(bench.rows, batch, bench.model.device, causal=True))
            for key in bench.keys:
                acts = found[key].half().cpu().numpy()
                for row, document in enumerate(batch):
                    first, last = bench.rows.offsets[document : document + 2]
                    on_disk = stored[dataset_name(key)][first:last]
                    np.testing.assert_array_equal(on_disk, acts[row, : last - first])
    with h5py.File(saved / capture.COUNTS) as one, h5py.File(streamed / capture.COUNTS) as other:
        for key in bench.keys:
            name = f"{dataset_name(key)}/counts"
            np.testing.assert_array_equal(one[name][:], other[name][:])
    assert all(Run(path).complete for path in (saved, streamed))

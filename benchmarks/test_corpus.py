"""A capture of 5,000 real documents, against reading them as they come and the bare forward."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from benchmarks.stage import Bench
from benchmarks.timing import Report, Rounds, Work, alternate
from benchmarks.workload import (
    BUDGET,
    CPU,
    Size,
    batches_by_number,
    batches_within,
    padding_fraction,
)
from sdlms.models.architectures import n_layers
from sdlms.models.device import set_threads
from sdlms.models.forward import padded_inputs
from sdlms.models.inputs import header_of, read_inputs, read_model
from sdlms.models.layers import DEFAULT_LAYERS, layers_of
from sdlms.models.loading import load_base_model
from sdlms.models.recording import recording
from sdlms.models.tokens import Budget, Text
from sdlms.storage.activations import dataset_name
from sdlms.storage.assets import asset_folder
from sdlms.storage.cards import embedded_models
from sdlms.storage.rows import Rows
from sdlms.tasks import load_tasks

MANIFEST = "training"
DOCUMENTS = {"full": 5_000, "smoke": 60}
PER_BATCH = 8
N_CHECKED = 24
TOLERANCE = 1e-5

CAPTURE, BARE = "capture", "bare, sorted"
BY_NUMBER = f"bare, arrival order, {PER_BATCH} documents (1 of 2)"
BY_BUDGET = "bare, arrival order, same budget (1 of 2)"
TO_CONTEXT = "bare, padded to the context (1 of 20)"
# What is slow reads one document of so many: a rate needs no more. All read those of the slowest.
EVERY = {BARE: 1, BY_NUMBER: 2, BY_BUDGET: 2, TO_CONTEXT: 20}


@dataclass(frozen=True)
class Way:
    """One way of reading documents.

    Attributes:
        batches: documents of each batch.
        width: tokens that every document is padded to; 0: the longest of its batch.
    """

    batches: list[list[int]]
    width: int = 0

    @property
    def documents(self) -> list[int]:
        """All documents of all batches."""
        return list(chain.from_iterable(self.batches))

    def inputs(self, rows: Rows, batch: Sequence[int]) -> Tensor:
        """`[batch, token]` ids, padded on the right."""
        ids, _ = padded_inputs(rows, batch, CPU, causal=True)
        missing = max(self.width - ids.shape[1], 0)
        return torch.cat([ids, ids[:, -1:].expand(-1, missing)], dim=1) if missing else ids

    def run(self, bench: Bench) -> None:
        """The forward to the last captured layer; nothing is kept."""
        with recording(bench.model, bench.header.layers[-1:], ["mlp_act"]) as recorded:
            for batch in self.batches:
                recorded.run(self.inputs(bench.rows, batch))


def test_corpus_against_arrival_order(
    size: Size, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Real tokens per second: the whole capture in float32, and forwards that keep nothing."""
    bench = make_bench(DOCUMENTS[size.name], tmp_path)
    ways = ways_of(bench)
    expected = check_same(bench, ways)
    warm = replace(bench, rows=bench.rows.subset(list(expected)))
    for side in _sides(warm, ways_of(warm)).values():
        side()
    warm.tidy()

    def tidy() -> None:
        check_stored(bench, expected)
        bench.tidy()

    rounds = alternate(_sides(bench, ways), size.slow_rounds, tidy)
    publish(_report(bench, ways, rounds))


def make_bench(n_documents: int, artifacts: Path) -> Bench:
    """The largest embedded model and the first documents of the training tasks, as many of each.

    Their order is that of a capture: task by task, each task's documents in seeded order.
    """
    models = asset_folder("models")
    weights = {name: models / name / "model.safetensors" for name in embedded_models()}
    source, config = read_model(max(weights, key=lambda name: weights[name].stat().st_size), None)
    tasks = load_tasks((MANIFEST,), None, "text")
    texts = []
    for number, task in enumerate(tasks):
        share = n_documents // len(tasks) + (number < n_documents % len(tasks))
        texts.append([Text(item.id, task.name, item.text) for item in task.documents[:share]])
    rows = read_inputs(source, config, texts, Budget(10**9, skip_first=0, seed=0)).tokens.rows
    assert rows.n_documents == n_documents
    layers = layers_of(DEFAULT_LAYERS, n_layers(config))
    header = header_of(source, config, ["mlp_act"], layers, "auto")
    set_threads(0)
    return Bench(load_base_model(source, torch.float32, CPU), rows, header, artifacts)


def ways_of(bench: Bench) -> dict[str, Way]:
    """The capture's own batches, and documents as they come."""
    rows, context = bench.rows, int(bench.model.config.max_position_embeddings)
    arrival = {name: range(0, rows.n_documents, every) for name, every in EVERY.items()}
    return {
        BARE: Way(bench.batches),
        BY_NUMBER: Way(batches_by_number(arrival[BY_NUMBER], PER_BATCH)),
        BY_BUDGET: Way(batches_within(arrival[BY_BUDGET], rows, BUDGET)),
        TO_CONTEXT: Way(batches_by_number(arrival[TO_CONTEXT], PER_BATCH), width=context),
    }


def _sides(bench: Bench, ways: Mapping[str, Way]) -> dict[str, Work]:
    """The capture, from the loaded model to the published run, and each way's bare forward."""

    def side(way: Way) -> Work:
        return lambda: way.run(bench)

    return {CAPTURE: bench.save, **{name: side(way) for name, way in ways.items()}}


def check_same(bench: Bench, ways: Mapping[str, Way]) -> dict[int, list[Tensor]]:
    """Every way reads each of its documents once and computes the same neurons.

    Returns:
        Some documents' neurons in the capture's own batches: `[token, neuron]` of each layer.
    """
    rows = bench.rows
    read_by_all = range(0, rows.n_documents, max(EVERY.values()))
    chosen = read_by_all[:: -(-len(read_by_all) // N_CHECKED)]
    expected = neurons_of(bench, ways[BARE], chosen)
    for name, way in ways.items():
        assert sorted(way.documents) == list(range(0, rows.n_documents, EVERY[name]))
        for document, found in neurons_of(bench, way, chosen).items():
            torch.testing.assert_close(found, expected[document], atol=TOLERANCE, rtol=TOLERANCE)
    return expected


def neurons_of(bench: Bench, way: Way, documents: Sequence[int]) -> dict[int, list[Tensor]]:
    """Neurons of some documents in the batches in which a way reads them."""
    found: dict[int, list[Tensor]] = {}
    with recording(bench.model, bench.header.layers, ["mlp_act"]) as recorded:
        for batch in way.batches:
            if wanted := set(batch).intersection(documents):
                acts = recorded.run(way.inputs(bench.rows, batch))
                for document in wanted:
                    row, length = batch.index(document), int(bench.rows.lengths[document])
                    found[document] = [acts[key][row, :length].clone() for key in bench.keys]
    return {document: found[document] for document in documents}


def check_stored(bench: Bench, expected: Mapping[int, list[Tensor]]) -> None:
    """A capture's file, where there is one, holds these neurons as float16, bit by bit."""
    for path in bench.saved():
        with h5py.File(path) as stored:
            for document, neurons in expected.items():
                first, last = bench.rows.offsets[document : document + 2]
                for key, acts in zip(bench.keys, neurons, strict=True):
                    on_disk = stored[dataset_name(key)][first:last]
                    np.testing.assert_array_equal(on_disk, acts.half().numpy())


def _report(bench: Bench, ways: Mapping[str, Way], rounds: Rounds) -> Report:
    """Real tokens per second of every side, and the ratios that matter."""
    rows = bench.rows
    report = Report(f"corpus, {bench.header.model}", unit="tok/s", facts=_facts(bench, ways))
    parts = rounds.parts[CAPTURE]
    report.facts["capture_seconds"] = {
        name: round(statistics.median(seconds), 3) for name, seconds in parts.items()
    }
    report.facts["cpu_seconds"] = rounds.cpu_medians()
    forward = "capture: its forward and writing"
    for name, seconds in [*rounds.wall.items(), (forward, parts["forward"])]:
        documents = ways[name].documents if name in ways else range(rows.n_documents)
        n_tokens = int(rows.lengths[list(documents)].sum())
        report.figures[name] = [n_tokens / value for value in seconds]
    for above in (CAPTURE, BARE):
        for below in (BY_NUMBER, BY_BUDGET, TO_CONTEXT):
            report.add_ratio(f"{above} / {below}", report.figures[above], report.figures[below])
    report.add_ratio(f"{CAPTURE} / {BARE}", report.figures[CAPTURE], report.figures[BARE])
    report.add_ratio("the same in CPU seconds", rounds.cpu[BARE], rounds.cpu[CAPTURE])
    report.add_ratio(f"{forward} / {BARE}", report.figures[forward], report.figures[BARE])
    return report


def _facts(bench: Bench, ways: Mapping[str, Way]) -> dict[str, Any]:
    """What the documents are and how much of each way is padding."""
    rows, layers = bench.rows, bench.header.layers
    in_turns = batches_by_number(_in_turns(rows), PER_BATCH)
    return {
        "documents": rows.n_documents,
        "tokens": rows.n_tokens,
        "length_quartiles": np.percentile(rows.lengths, [0, 25, 50, 75, 100]).tolist(),
        "layers": layers,
        "neurons_per_layer": bench.header.units["mlp_act", layers[0]],
        "threads": torch.get_num_threads(),
        "batch_tokens": BUDGET,
        "read_one_document_of": EVERY,
        "padding_fraction": {
            **{name: padding_fraction(rows, way.batches, way.width) for name, way in ways.items()},
            f"tasks taking turns, {PER_BATCH} documents": padding_fraction(rows, in_turns),
        },
        "equal_to": f"{TOLERANCE} in the neurons of some documents; stored bit by bit",
    }


def _in_turns(rows: Rows) -> list[int]:
    """Documents with the tasks taking turns."""
    own: dict[str, list[int]] = {}
    for document, task in enumerate(rows.document_tasks):
        own.setdefault(task, []).append(document)
    turns = chain.from_iterable(zip_longest(*own.values()))
    return [document for document in turns if document is not None]

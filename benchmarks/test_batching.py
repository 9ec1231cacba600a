"""What sorting documents by length gains over taking them as they come."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.timing import Report, alternate
from benchmarks.workload import (
    BUDGET,
    CPU,
    Size,
    batches_by_number,
    batches_within,
    capture_batches,
    load_model,
    make_rows,
    mixed_lengths,
    padding_fraction,
    run_whole,
)
from sdlms.models.forward import padded_inputs
from sdlms.storage.rows import Rows

DOCUMENTS = 8
TOLERANCE = 1e-4  # of final hidden states, which are of order 1
Batches = Sequence[Sequence[int]]


@pytest.mark.parametrize("law", ["log-uniform", "uniform"])
def test_sorted_against_arrival_order(
    law: Literal["log-uniform", "uniform"],
    size: Size,
    model_folder: Path,
    publish: Callable[[Report], None],
) -> None:
    """Real tokens per second of the bare six-layer forward, documents of 20 to 500 tokens."""
    model = load_model(model_folder)
    rows = make_rows(mixed_lengths(size.tokens // 2, law), size.d_vocab)
    arrival = range(rows.n_documents)
    ways: dict[str, Batches] = {
        "sorted": capture_batches(rows),
        f"arrival order, {DOCUMENTS} documents": batches_by_number(arrival, DOCUMENTS),
        "arrival order, same budget": batches_within(arrival, rows, BUDGET),
    }
    check_same(model, rows, list(ways.values()))

    def side(batches: Batches) -> Callable[[], None]:
        return lambda: run_whole(model, rows, batches)

    rounds = alternate({name: side(batches) for name, batches in ways.items()}, size.rounds)
    report = Report(
        f"batching, {law} lengths",
        unit="tok/s",
        facts={
            "tokens": rows.n_tokens,
            "documents": rows.n_documents,
            "padding_fraction": {
                name: padding_fraction(rows, found) for name, found in ways.items()
            },
            "equal_to": f"{TOLERANCE} in every real token's final hidden state",
        },
    )
    for name, seconds in rounds.wall.items():
        report.figures[name] = [rows.n_tokens / value for value in seconds]
    sorted_, by_number, by_budget = report.figures.values()
    report.add_ratio("sorted / arrival order, 8 documents", sorted_, by_number, ">= 1.8")
    report.add_ratio("sorted / arrival order, same budget", sorted_, by_budget, ">= 1.8")
    publish(report)


@torch.no_grad()
def check_same(model: PreTrainedModel, rows: Rows, ways: Sequence[Batches]) -> None:
    """Every document comes once and its final hidden states are the same in all batchings."""
    found: dict[int, torch.Tensor] = {}
    for batches in ways:
        seen: list[int] = []
        for batch in batches:
            ids, _ = padded_inputs(rows, batch, CPU, causal=True)
            states = model(input_ids=ids, use_cache=False).last_hidden_state
            for row, document in enumerate(batch):
                own = states[row, : int(rows.lengths[document])]
                known = found.setdefault(document, own.clone())
                torch.testing.assert_close(own, known, atol=TOLERANCE, rtol=0)
                seen.append(document)
        assert sorted(seen) == list(range(rows.n_documents))

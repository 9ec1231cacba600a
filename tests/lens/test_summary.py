"""Sums of documents and their bootstrap, against loops."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.lens import summary
from sdlms.lens.summary import (
    N_RESAMPLES,
    OF_MODEL,
    OF_STATES,
    Sums,
    decided_by,
    read_blocks,
    readable_positions,
    summary_of,
    summed,
)
from sdlms.numerics.document_bootstrap import drawn_documents
from sdlms.storage.lens_file import LensReader
from tests.lens.lens_files import STATES, rows_of, write_lens

ROWS = rows_of([7, 1, 30, 12, 0, 25], ["a", "a", "b", "a", "b", "b"])


def positions_by_hand() -> list[int]:
    found = []
    for first, last in zip(ROWS.offsets[:-1], ROWS.offsets[1:], strict=True):
        found += [t for t in range(first, last - 1) if ROWS.mask[t] and ROWS.mask[t + 1]]
    return found


def test_positions_have_a_token_and_a_next_one_that_are_text() -> None:
    assert readable_positions(ROWS).tolist() == positions_by_hand()
    empty = rows_of([0, 1], ["a", "a"])
    assert readable_positions(empty).tolist() == []


@pytest.mark.parametrize("at_once", [1, 20, 10_000])
def test_blocks_hold_every_position_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    held = write_lens(tmp_path / "lens.h5", ROWS)["logit"]
    monkeypatch.setattr(summary, "READ_TOKENS", at_once)
    positions = np.array(positions_by_hand())
    with LensReader(tmp_path / "lens.h5") as reader:
        blocks = list(read_blocks(reader, ROWS, "logit"))
    states = np.concatenate([block.states for block in blocks])
    assert states.shape == (len(positions), len(STATES), len(OF_STATES))
    top, following = held["top_ids"][positions, :, 0], ROWS.ids[positions + 1]
    expected = {
        "entropy_nats": held["entropy_nats"][positions],
        "kl_to_final_nats": held["kl_to_final_nats"][positions],
        "loss_nats": -held["next_log_probability"][positions],
        "accuracy": top == following[:, None],
        "agreement": top == top[:, -1:],
    }
    for number, name in enumerate(OF_STATES[:-1]):
        np.testing.assert_allclose(states[..., number], expected[name])
    decided = held["decided_at"][positions]
    # After attention of block 0, only what the embedding decided is decided.
    over = np.stack([decided == -1, decided == -1, decided <= 0, decided <= 2], axis=1)
    np.testing.assert_array_equal(states[..., -1], over)
    model = np.concatenate([block.model for block in blocks])
    np.testing.assert_allclose(model, np.stack([decided, (decided + 1) / 3], axis=1))
    assert len(OF_MODEL) == model.shape[1]
    documents = np.concatenate([block.document for block in blocks])
    assert documents.tolist() == [int(np.sum(ROWS.offsets[1:] <= t)) for t in positions]


def test_decided_by_counts_no_block_before_the_first() -> None:
    assert decided_by(STATES).tolist() == [-1, -1, 0, 2]


def test_sums_are_those_of_each_document() -> None:
    generator = np.random.default_rng(0)
    document = np.array([0, 0, 2, 2, 2, 5])
    values = generator.normal(size=(6, 3))
    sums = summed(document, values, 7)
    assert sums.counts.tolist() == [2, 0, 3, 0, 0, 1, 0]
    for number in range(7):
        np.testing.assert_allclose(sums.values[number], values[document == number].sum(axis=0))


def test_intervals_are_those_of_the_ratio_in_each_draw() -> None:
    generator = np.random.default_rng(0)
    tasks = np.array([0] * 11 + [1] * 12 + [2])
    counts = generator.integers(1, 9, size=24).astype(float)
    values = generator.normal(size=(24, 2)) * counts[:, None]
    found = summary_of(Sums(counts, values), tasks, seed=3)
    weights = drawn_documents(tasks, N_RESAMPLES, np.random.default_rng(3))
    groups = [tasks == 0, tasks == 1, tasks == 2, tasks >= 0]
    for task, own in enumerate(groups):
        for quantity in range(2):
            estimate = found.of(task, quantity)
            total = values[own, quantity].sum() / counts[own].sum()
            assert estimate.value == pytest.approx(total)
            if task >= 2:
                assert np.isnan([estimate.low, estimate.high]).all()
                continue
            draws = [
                (row[own] @ values[own, quantity]) / (row[own] @ counts[own]) for row in weights
            ]
            low, high = np.quantile(draws, [0.025, 0.975])
            assert [estimate.low, estimate.high] == pytest.approx([low, high])
    one = "no interval from one document"
    assert found.reasons == ["", "", one, one]
    assert found.n_documents.tolist() == [11, 12, 1, 24]
    assert found.n_positions.tolist() == [counts[own].sum() for own in groups]


def test_what_is_missing_says_why() -> None:
    tasks = np.array([0, 0, 1, 1, 2, 2])
    counts = np.array([2.0, 3, 0, 0, 1, 1])
    values = np.array([[1.0], [2], [0], [0], [np.inf], [1]])
    found = summary_of(Sums(counts, values), tasks, seed=0)
    assert found.reasons[:3] == [
        "interval from 2 documents", "no position to read", "a value is not finite",
    ]  # fmt: skip
    assert np.isnan(found.estimates[1:]).all()
    assert found.of(0, 0).low <= found.of(0, 0).value <= found.of(0, 0).high
    nothing = summary_of(Sums(np.zeros(2), np.zeros((2, 1))), np.array([0, 0]), seed=0)
    assert nothing.reasons == ["no position to read"] * 2

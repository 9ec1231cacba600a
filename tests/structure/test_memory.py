from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.counts import BLOCK_DOCUMENTS
from sdlms.structure import memory
from sdlms.structure.counting import document_counts, write_firings
from sdlms.structure.firing import DocumentCounts
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import ThresholdRule
from sdlms.structure.thresholds import thresholds_of
from tests.stages.probe_runs import LAYERS, noise, published


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    run = published(tmp_path, noise(40, n_tokens=20, n_units=6))
    return open_subject(run, None, ("all",), ThresholdRule("quantile", 0.8))


def test_a_graph_s_memory_is_that_of_the_units_in_it(subject: Subject, tmp_path: Path) -> None:
    thresholds = thresholds_of(subject, LAYERS[0])
    thresholds[2] = 1e9
    counts = document_counts(subject, LAYERS[0], thresholds)
    firings = write_firings(subject, LAYERS[0], thresholds, counts, tmp_path / "firings")
    assert firings.n_units == 5
    assert memory.graph_bytes(counts) == memory.MATRICES * 4 * 5**2 + 16 * 40 * 5


def test_counts_of_every_layer_and_control_are_held(subject: Subject) -> None:
    one = 4 * 40 * 6
    assert memory.counted_bytes(subject, 0) == one * (2 + memory.CURVE_THRESHOLDS)
    assert memory.counted_bytes(subject, 2) == one * (4 + memory.CURVE_THRESHOLDS)


def test_what_does_not_fit_is_one_line_before_it_is_made(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.check_counts_fit(subject, 1)
    counts = DocumentCounts(
        np.full((BLOCK_DOCUMENTS, 100), 1, dtype=np.uint32),
        np.full(BLOCK_DOCUMENTS, 9),
        np.zeros(BLOCK_DOCUMENTS, dtype=np.int64),
        ("a",),
    )
    memory.check_graphs_fit([counts])
    monkeypatch.setattr(memory, "memory_of", lambda _: (10_000, 5_000))
    with pytest.raises(UserError, match=r"firing counts per document take .* 5.0 kB are free"):
        memory.check_counts_fit(subject, 1)
    with pytest.raises(UserError, match=r"joint counts .* take 1.7 MB .* Use --no-graph"):
        memory.check_graphs_fit([counts])

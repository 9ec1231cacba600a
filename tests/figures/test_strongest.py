"""What latents fire on: the same from stored latents as a search of every token finds."""

from pathlib import Path

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.figures.strongest import N_TOP, strongest_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.rows import Rows
from sdlms.storage.sparse_acts import Entries, SparseAppender, SparseHeader, assemble
from sdlms.storage.tables import write_table
from tests.figures.sae_runs import N_DOCUMENTS, TASKS, sae_run
from tests.figures.table_runs import table_run

WIDTH, LENGTHS = 6, [7, 0, 12, 3, 9, 1, 8, 11]


def some_rows() -> Rows:
    random = np.random.default_rng(0)
    n_tokens = sum(LENGTHS)
    return Rows(
        ids=random.integers(9, size=n_tokens).astype(np.int32),
        mask=(random.random(n_tokens) > 0.2).astype(np.uint8),
        offsets=np.cumsum([0, *LENGTHS]).astype(np.int64),
        document_ids=[f"d{number}" for number in range(len(LENGTHS))],
        document_tasks=[("qa", "math", "prose")[number % 3] for number in range(len(LENGTHS))],
    )


def encoded_run(artifacts: Path, acts: np.ndarray, rows: Rows) -> Run:
    """A sae-latents run of one layer with these latents, `[token, latent]`."""
    with RunWriter("sae-latents", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"site": "resid_post"}, {})
        header = SparseHeader(
            model="m", revision="", site="resid_post", width=WIDTH, members={3: "k_2"}, sae="s"
        )
        tokens, latents = acts.nonzero()
        with SparseAppender(out.scratch, 3, 0, 0) as appender:
            appender.append(
                Entries(
                    np.bincount(tokens, minlength=len(acts)).astype(np.int32),
                    latents.astype(np.int32),
                    acts[tokens, latents],
                )
            )
            appender.sync()
        assemble(out.path / "sparse_acts.h5", header, rows, out.scratch)
        columns = ["layer", "member", "width"]
        write_table(
            out.path / "sae_latents.csv", columns, [{"layer": 3, "member": "k_2", "width": WIDTH}]
        )
        out.output("sparse_acts.h5")
        out.output("sae_latents.csv", columns=columns)
    return Run(out.path)


def test_stored_latents_are_ranked_as_a_search_does(tmp_path: Path) -> None:
    rows, random = some_rows(), np.random.default_rng(1)
    acts = random.choice([0, 0, 0, 1, 2, 3], size=(rows.n_tokens, WIDTH)).astype(np.float32)
    acts[:, 5] = 0  # never fires
    found = strongest_of(encoded_run(tmp_path, acts, rows))
    assert found.name == "resid_post, layer 3, k_2"
    assert found.tasks == ["qa", "math", "prose"] and found.document_ids == rows.document_ids
    real = rows.mask == 1
    np.testing.assert_allclose(found.rates, (acts[real] > 0).mean(axis=0))
    for latent in range(WIDTH):
        best = []
        for number, (first, last) in enumerate(zip(rows.offsets, rows.offsets[1:], strict=False)):
            own = np.where(real[first:last], acts[first:last, latent], 0)
            if own.size and own.max() > 0:
                best.append((-own.max(), number, int(own.argmax())))
            row = found.tasks.index(rows.document_tasks[number])
            found.task_counts[row, latent] -= (own > 0).sum()
        expected = sorted(best)[:N_TOP]
        rest = [(0, -1, -1)] * (N_TOP - len(expected))
        held = zip(
            -found.activations[latent],
            found.documents[latent],
            found.positions[latent],
            strict=True,
        )
        assert [*held] == [*expected, *rest]
    assert not found.task_counts.any()  # all of them were found again


def test_a_trained_run_says_what_its_file_does(tmp_path: Path) -> None:
    found = strongest_of(sae_run(tmp_path), layer=1)
    assert found.name == "resid_post, layer 1, k_8_seed0"
    assert found.tasks == list(TASKS) and len(found.document_tasks) == N_DOCUMENTS
    assert found.activations[2].tolist() == [9.5, 8.5, 7.5, 6.5, 5.5]
    assert found.documents[2].tolist() == [2, 3, 4, 5, 6]
    assert found.documents[7].tolist() == [7, 8, 9, -1, -1]
    assert found.task_counts[:, 2].tolist() == [22, 5]


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    run = encoded_run(tmp_path, np.ones((sum(LENGTHS), WIDTH), np.float32), some_rows())
    with pytest.raises(UserError, match=r"has no SAE of layer 2; its layers are: 3\.$"):
        strongest_of(run, layer=2)
    other = table_run(tmp_path, "capture", {"sparsity.csv": [{"layer": 0}]})
    with pytest.raises(UserError, match=r"a run of sae-train or sae-latents is needed\.$"):
        strongest_of(other)

"""What autoencoders are measured on: documents by their roles, and the model where it is needed."""

from pathlib import Path

import numpy as np
import torch

from sdlms.runs.reading import Run
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.documents import Budgets, documents_by_role
from sdlms.sae.ground import (
    DOCUMENT_COLUMNS,
    document_rows,
    ground_of,
    note_halved,
    scoring_of,
    table_bytes,
    write_documents,
)
from sdlms.sae.ground import (
    DOCUMENTS as DOCUMENTS_CSV,
)
from sdlms.sae.preparation import basis, prepare
from sdlms.sae.subject import Subject
from sdlms.storage.counts import masked_lengths
from sdlms.storage.latents import LatentsHeader, LatentsMember, create_latents
from sdlms.storage.tables import read_table
from tests.acts.samples import rows_with
from tests.sae.sweeps import sparse_acts

CPU = torch.device("cpu")
ACTS = sparse_acts()
ROWS = rows_with([30] * 40, np.arange(1200) % 30 > 0)
COUNTS = masked_lengths(ROWS)
DOCUMENTS = documents_by_role(COUNTS, ROWS.document_tasks, 0, Budgets(600, 120, 40))


def test_each_document_has_one_row_and_one_role() -> None:
    rows = list(document_rows(ROWS, DOCUMENTS))
    assert all(tuple(row) == DOCUMENT_COLUMNS for row in rows)
    assert [row["document_id"] for row in rows] == ROWS.document_ids
    for name, chosen in (("measured", DOCUMENTS.measured), ("cross_entropy", DOCUMENTS.scored)):
        found = [i for i, row in enumerate(rows) if row[name]]
        assert found == chosen.tolist()
        assert all(rows[i]["split"] == "validation" for i in found)
    splits = [row["split"] for row in rows]
    assert splits.count("train") == len(DOCUMENTS.training)
    assert {row["tokens"] for row in rows} == {29}


def test_documents_and_smaller_batches_are_noted_in_the_run(tmp_path: Path) -> None:
    with RunWriter("tiny", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
        write_documents(ROWS, DOCUMENTS, out)
        note_halved(out, 64)
    run = Run(out.path)
    rows = read_table(run.path / DOCUMENTS_CSV)
    expected = list(document_rows(ROWS, DOCUMENTS))
    assert rows == [{name: str(cell) for name, cell in row.items()} for row in expected]
    (declared,) = [record for record in run.all_of("output") if record["path"] == DOCUMENTS_CSV]
    assert declared["columns"] == list(DOCUMENT_COLUMNS)
    assert [record["batch_tokens"] for record in run.all_of("batch_halved")] == [64]
    assert verify(run) == []


def test_the_tables_take_what_was_predicted(tmp_path: Path) -> None:
    subject = Subject({}, "resid_post", list(ACTS.layers), ACTS.n_units, ROWS)
    widths = {(1, "a"): 400, (1, "b"): 400, (3, "a"): 1000}
    ids = [ROWS.document_ids[d] for d in DOCUMENTS.measured]
    members = {LatentsMember("resid_post", *key): width for key, width in widths.items()}
    tasks = [ROWS.document_tasks[d] for d in DOCUMENTS.measured]
    create_latents(tmp_path / "l.h5", LatentsHeader("m", "", "", members, ids, tasks))
    predicted = table_bytes(subject, DOCUMENTS, widths)
    assert predicted <= (tmp_path / "l.h5").stat().st_size <= predicted + 40_000


def test_nothing_is_scored_without_documents_for_it() -> None:
    none = documents_by_role(COUNTS, ROWS.document_tasks, 0, Budgets(600, 120, 0))
    assert scoring_of(ROWS, none, None, CPU, lambda _: None) is None
    scoring = scoring_of(ROWS, DOCUMENTS, torch.nn.Identity(), CPU, lambda _: None)  # type: ignore[arg-type]
    assert scoring is not None
    assert scoring.rows.document_ids == [ROWS.document_ids[d] for d in DOCUMENTS.scored]


def test_the_ground_is_what_was_read_of_the_measured_documents() -> None:
    subject = Subject({}, "resid_post", list(ACTS.layers), ACTS.n_units, ROWS)
    read = basis(ACTS, DOCUMENTS, 0)
    ground = ground_of(subject, DOCUMENTS, read, None, CPU, 3)
    assert ground.document_ids == [ROWS.document_ids[d] for d in DOCUMENTS.measured]
    assert len(ground.document_tasks) == len(ground.tokens.offsets) - 1
    assert int(ground.tokens.offsets[-1]) == COUNTS[DOCUMENTS.measured].sum()
    assert (ground.layers, ground.seed, ground.scoring) == (subject.layers, 3, None)


def test_without_training_the_same_is_read_as_for_training() -> None:
    prepared, read = prepare(ACTS, DOCUMENTS, 64, 0), basis(ACTS, DOCUMENTS, 0)
    assert torch.equal(prepared.measured.acts, read.measured.acts)
    for one, other in zip(prepared.moments, read.moments, strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.covariance, other.covariance)

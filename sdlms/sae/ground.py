"""What autoencoders are measured on: which documents, their tokens, and the model."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast

import torch

from sdlms.models.architectures import Site
from sdlms.models.batching import DEFAULT_BUDGET
from sdlms.runs.writing import RunWriter
from sdlms.sae.cross_entropy import Scoring
from sdlms.sae.documents import Documents
from sdlms.sae.measuring import Ground, Row
from sdlms.sae.preparation import Basis
from sdlms.sae.subject import Subject
from sdlms.storage.counts import masked_lengths
from sdlms.storage.latents import LatentsHeader, LatentsMember, predicted_bytes
from sdlms.storage.rows import Rows
from sdlms.storage.tables import write_table

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LATENTS, DOCUMENTS = "latents.h5", "documents.csv"
DOCUMENT_COLUMNS = ("document_id", "task", "split", "tokens", "measured", "cross_entropy")


def document_rows(rows: Rows, documents: Documents) -> Iterator[Row]:
    """`documents.csv`: each document that has tokens, by `DOCUMENT_COLUMNS`."""
    counts = masked_lengths(rows)
    measured, scored = (set(d.tolist()) for d in (documents.measured, documents.scored))
    for document, split in documents.splits():
        yield {
            "document_id": rows.document_ids[document],
            "task": rows.document_tasks[document],
            "split": split,
            "tokens": int(counts[document]),
            "measured": int(document in measured),
            "cross_entropy": int(document in scored),
        }


def write_documents(rows: Rows, documents: Documents, out: RunWriter) -> None:
    """Write `documents.csv` of a run."""
    write_table(out.path / DOCUMENTS, DOCUMENT_COLUMNS, document_rows(rows, documents))
    out.output(DOCUMENTS, columns=DOCUMENT_COLUMNS)


def note_halved(out: RunWriter, batch_tokens: int) -> None:
    """Record smaller batches: results equal those of other runs only to tolerance then."""
    out.event("batch_halved", batch_tokens=batch_tokens)


def table_bytes(
    subject: Subject, documents: Documents, widths: Mapping[tuple[int, str], int]
) -> int:
    """What the arrays of `latents.h5` take.

    Args:
        subject: where activations come from.
        documents: their roles.
        widths: latents of each autoencoder, by layer and name.
    """
    rows = subject.rows
    header = LatentsHeader(
        model="",
        revision="",
        sae="",
        widths={LatentsMember(subject.site, *key): width for key, width in widths.items()},
        document_ids=[rows.document_ids[d] for d in documents.measured],
        document_tasks=[rows.document_tasks[d] for d in documents.measured],
    )
    return predicted_bytes(header)


def scoring_of(
    rows: Rows,
    documents: Documents,
    model: "PreTrainedModel | None",
    device: torch.device,
    on_halved: Callable[[int], None],
) -> Scoring | None:
    """The model and what it predicts; None where no document is scored.

    Args:
        rows: tokens of all documents.
        documents: their roles.
        model: with its head; looked at only where documents are scored.
        device: that it is on.
        on_halved: told the tokens of a batch when memory runs out.
    """
    if not len(documents.scored):
        return None
    scored = rows.subset(documents.scored.tolist())
    budget = DEFAULT_BUDGET[device.type]
    return Scoring(cast("PreTrainedModel", model), scored, budget, on_halved)


def ground_of(
    subject: Subject,
    documents: Documents,
    basis: Basis,
    scoring: Scoring | None,
    device: torch.device,
    seed: int,
) -> Ground:
    """All of it.

    Args:
        subject: where activations come from.
        documents: their roles.
        basis: held-out tokens, and statistics of training tokens.
        scoring: for cross-entropy; None leaves it out.
        device: to compute on.
        seed: of intervals and samples.
    """
    rows = subject.rows
    return Ground(
        site=cast(Site, subject.site),
        layers=subject.layers,
        tokens=basis.measured,
        moments=basis.moments,
        document_ids=[rows.document_ids[d] for d in documents.measured],
        document_tasks=[rows.document_tasks[d] for d in documents.measured],
        scoring=scoring,
        device=device,
        seed=seed,
    )

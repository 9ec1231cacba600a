"""Whether a run fits the memory, said before the work that it would break."""

from collections.abc import Sequence

import torch

from sdlms.errors import UserError
from sdlms.models.device import memory_of
from sdlms.progress import readable_bytes
from sdlms.structure.counting import graph_units
from sdlms.structure.firing import DocumentCounts
from sdlms.structure.subject import Subject
from sdlms.structure.thresholds import CURVE_QUANTILES

COUNT_BYTES = 4
# Joint counts of one task and of all; a strip of products, and of what is expected, beside them.
MATRICES = 2.5
CURVE_THRESHOLDS = len(CURVE_QUANTILES) + 2  # zero, and mean plus two deviations


def counted_bytes(subject: Subject, n_controls: int) -> int:
    """What the firing counts of all layers take, with those that the curve makes of one."""
    n_held = len(subject.layers) + n_controls
    if subject.has_firings:
        n_held += CURVE_THRESHOLDS
    return COUNT_BYTES * len(subject.documents.ids) * subject.n_units * n_held


def graph_bytes(counts: DocumentCounts) -> int:
    """What the joint counts of a layer's units take, of those that can have an edge.

    And what is expected of them is made from: rates and their variances, document by document.
    """
    n_units = len(graph_units(counts))
    return int(MATRICES * COUNT_BYTES * n_units**2) + 2 * 8 * len(counts.n_tokens) * n_units


def check_counts_fit(subject: Subject, n_controls: int) -> None:
    """Make sure that the layers can be counted.

    Raises:
        UserError: they take more memory than is free.
    """
    remedy = "Name fewer --layers, or capture fewer documents."
    _check("firing counts per document", counted_bytes(subject, n_controls), remedy)


def check_graphs_fit(counts: Sequence[DocumentCounts]) -> None:
    """Make sure that the largest of some layers' graphs can be made.

    Raises:
        UserError: it takes more memory than is free.
    """
    largest = max(map(graph_bytes, counts), default=0)
    _check("joint counts of all pairs of units", largest, "Use --no-graph, or a narrower SAE.")


def _check(what: str, needed_bytes: int, remedy: str) -> None:
    """Compare with what the machine has free."""
    _, free_bytes = memory_of(torch.device("cpu"))
    if needed_bytes > free_bytes:
        raise UserError(
            f"{what} take {readable_bytes(needed_bytes)} of memory, "
            f"{readable_bytes(free_bytes)} are free. {remedy}"
        )

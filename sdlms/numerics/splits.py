"""Documents for training, validation and testing: by document, stratified by class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
N_ROLES = 3


def grouped_split(
    groups: NDArray[np.int64],
    classes: NDArray[Any],
    seed: int,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.2,
) -> NDArray[np.int8]:
    """Give every document one role, so that no document is on two sides.

    Each class's documents are shuffled and cut: `test_fraction` of them for testing, then
    `validation_fraction` of the rest for validation, rounded to the nearest count. A class with
    at least three documents has at least one in each role, one with two has one for training
    and one for testing, one with a single document trains on it.
    A document with examples of several classes belongs to the class of most of them; of equally
    many, to the one that comes first in it. Neither the names nor the order of the classes
    matter.

    Args:
        groups: `[example]` integer, the document of each example, from 0 without gaps;
            `arange(n_documents)` where a document is an example.
        classes: `[example]` integers or strings.
        seed: of the shuffle; the same seed gives the same roles.
        test_fraction: in (0, 1).
        validation_fraction: in [0, 1), of what is not for testing; 0 gives no validation.

    Returns:
        `[document]` int8, each `TRAIN`, `VALIDATION` or `TEST`.

    Raises:
        ValueError: no example, other shapes, a document without examples, or a fraction out of
            range.
    """
    if not 0 < test_fraction < 1 or not 0 <= validation_fraction < 1:
        raise ValueError(f"fractions out of range: {test_fraction}, {validation_fraction}")
    _, strata = _strata(groups, classes)
    roles = np.full(len(strata), TRAIN, dtype=np.int8)
    # One shuffle for all classes: a class's order then does not depend on its name.
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    for stratum in range(strata.max() + 1):
        documents = shuffled[strata[shuffled] == stratum]
        n_test, n_validation = _cuts(len(documents), test_fraction, validation_fraction)
        roles[documents[:n_test]] = TEST
        roles[documents[n_test : n_test + n_validation]] = VALIDATION
    return roles


def _cuts(n_documents: int, test_fraction: float, validation_fraction: float) -> tuple[int, int]:
    """How many documents of one class are for testing and for validation."""
    if n_documents == 1:
        return 0, 0
    for_validation = int(validation_fraction > 0 and n_documents >= N_ROLES)
    n_test = _rounded(test_fraction * n_documents, 1, n_documents - 1 - for_validation)
    if not for_validation:
        return n_test, 0
    rest = n_documents - n_test
    return n_test, _rounded(validation_fraction * rest, 1, rest - 1)


def _rounded(count: float, least: int, most: int) -> int:
    """The nearest integer, half up, kept between `least` and `most`."""
    return min(max(int(count + 0.5), least), most)


def _strata(
    groups: NDArray[np.int64], classes: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The class names, and for each document the index of its majority class."""
    if groups.ndim != 1 or groups.shape != classes.shape or not len(groups):
        raise ValueError(f"groups {groups.shape}, classes {classes.shape}: need [example], not 0")
    documents = np.unique(groups)
    if documents[0] != 0 or documents[-1] != len(documents) - 1:
        raise ValueError("documents must be numbered from 0 without gaps")
    names, codes = np.unique(classes, return_inverse=True)
    pairs, first, counts = np.unique(
        groups.astype(np.int64) * len(names) + codes, return_index=True, return_counts=True
    )
    document, stratum = np.divmod(pairs, len(names))
    order = np.lexsort((first, -counts, document))
    leaders = order[np.flatnonzero(np.diff(document[order], prepend=-1))]
    return names, stratum[leaders]

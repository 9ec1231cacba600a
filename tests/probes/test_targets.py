import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.numerics.splits import TRAIN, VALIDATION
from sdlms.probes.targets import Split, Targets

OFFSETS = np.array([0, 2, 5])
TOKENS = Targets(np.array([[1, 0, 0, 1, 1]], dtype=bool), OFFSETS, np.array([1, 1, 0, 1, 1], bool))


def test_labels_of_documents_repeat_over_tokens() -> None:
    targets = Targets(np.array([[True, False], [False, False]]))
    assert targets.of(np.array([1, 0, 0]), np.array([0, 0, 4])).tolist() == [
        [False, True, True],
        [False, False, False],
    ]
    assert targets.known(np.array([1, 0]), np.array([3, 9])).all()


def test_labels_of_tokens_are_found_by_document_and_place() -> None:
    documents, tokens = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 2])
    assert TOKENS.of(documents, tokens).tolist() == TOKENS.labels.tolist()
    assert TOKENS.known(documents, tokens).tolist() == TOKENS.labelled.tolist()
    with pytest.raises(ValueError, match="whole documents"):
        TOKENS.of(np.array([0]), None)


def test_a_split_knows_who_has_a_role() -> None:
    split = Split((3, 4), np.array([[0, 1, 2, 2], [1, 0, 0, 2]], dtype=np.int8))
    assert split.having(TRAIN).tolist() == [True, True, True, False]
    assert split.having(VALIDATION).tolist() == [True, True, False, False]
    assert split.train_fraction == 0.25


@pytest.mark.parametrize(
    ("roles", "what"), [([[0, 1], [0, 0]], "validate"), ([[0, 1], [1, 2]], "train")]
)
def test_a_seed_without_a_role_is_named(roles: list[list[int]], what: str) -> None:
    with pytest.raises(UserError, match=f"{what} on in the split of seed 9"):
        Split((8, 9), np.array(roles, dtype=np.int8))


def test_seeds_and_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="2 seeds"):
        Split((1, 2), np.zeros((1, 4), dtype=np.int8))

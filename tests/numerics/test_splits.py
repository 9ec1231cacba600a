import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.numerics.splits import TEST, TRAIN, VALIDATION, grouped_split

CLASSES = st.lists(st.integers(0, 3), min_size=1, max_size=80)
FRACTIONS = st.floats(0.01, 0.99)


@given(CLASSES, st.integers(0, 99), FRACTIONS, FRACTIONS)
def test_each_class_of_three_documents_has_every_role(
    classes: list[int], seed: int, test_fraction: float, validation_fraction: float
) -> None:
    names = np.array(classes)
    groups = np.arange(len(names))
    roles = grouped_split(groups, names, seed, test_fraction, validation_fraction)
    assert roles.dtype == np.int8
    assert roles.shape == (len(names),)
    for name in set(classes):
        counts = np.bincount(roles[names == name], minlength=3)
        n_documents = counts.sum()
        if n_documents >= 3:
            assert counts.min() >= 1
        assert counts[TRAIN] >= 1
        assert counts[TEST] >= (n_documents >= 2)
        assert abs(counts[TEST] - test_fraction * n_documents) <= 2
        rest = n_documents - counts[TEST]
        assert abs(counts[VALIDATION] - validation_fraction * rest) <= 1


def test_default_fractions_are_exact_where_they_can_be() -> None:
    roles = grouped_split(np.arange(100), np.repeat([0, 1], 50), seed=0)
    for half in (roles[:50], roles[50:]):
        assert np.bincount(half).tolist() == [32, 8, 10]


@given(CLASSES, st.integers(0, 99))
def test_names_and_order_of_classes_do_not_matter(classes: list[int], seed: int) -> None:
    names = np.array(classes)
    groups = np.arange(len(names))
    roles = grouped_split(groups, names, seed)
    assert (grouped_split(groups, 3 - names, seed) == roles).all()
    words = np.array(["delta", "alpha", "gamma", "beta"])[names]
    assert (grouped_split(groups, words, seed) == roles).all()


def test_the_seed_decides() -> None:
    groups, classes = np.arange(40), np.arange(40) % 2
    splits = {grouped_split(groups, classes, seed).tobytes() for seed in (0, 0, 1, 2)}
    assert len(splits) == 3


def test_a_document_belongs_to_the_class_of_most_of_its_tokens() -> None:
    """Six documents of class 0, three of class 1, each with one token of the other class."""
    majority = np.array([0] * 6 + [1] * 3)
    groups = np.repeat(np.arange(9), 3)
    classes = np.stack([majority, 1 - majority, majority], axis=1).ravel()
    by_document = grouped_split(np.arange(9), majority, seed=4)
    shuffled = np.random.default_rng(0).permutation(len(groups))
    assert (grouped_split(groups, classes, seed=4) == by_document).all()
    found = grouped_split(groups[shuffled], classes[shuffled], seed=4)
    assert (found == by_document).all()


def test_without_validation_nothing_is_set_aside() -> None:
    roles = grouped_split(np.arange(10), np.zeros(10, dtype=int), 0, validation_fraction=0)
    assert np.bincount(roles).tolist() == [8, 0, 2]


def test_impossible_input_is_refused() -> None:
    two = np.arange(2)
    for groups, classes in ((two[:0], two[:0]), (two, two[:1]), (two + 1, two), (two * 2, two)):
        with pytest.raises(ValueError, match=r"example|gaps"):
            grouped_split(groups, classes, 0)
    for fractions in ((0.0, 0.2), (1.0, 0.2), (0.2, 1.0), (0.2, -0.1)):
        with pytest.raises(ValueError, match="fractions"):
            grouped_split(two, two, 0, *fractions)

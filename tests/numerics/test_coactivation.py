from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from sdlms.numerics import coactivation
from sdlms.numerics.coactivation import add_coactivations_, circular_shift


def drawn(n_tokens: int, n_units: int, density: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((n_tokens, n_units)) < density).astype(np.uint8)


def counted(firing: np.ndarray) -> np.ndarray:
    """The upper triangle of what is counted from zero."""
    counts = torch.zeros(firing.shape[1], firing.shape[1], dtype=torch.int32)
    add_coactivations_(counts, firing)
    return np.triu(counts.numpy())


def brute_force(firing: np.ndarray) -> np.ndarray:
    wide = firing.astype(np.float64)
    return np.triu(wide.T @ wide).astype(np.int64)


@given(
    st.integers(0, 70),
    st.integers(0, 90),
    st.sampled_from([0.0, 0.004, 0.1, 0.5, 1.0]),
    st.integers(0, 5),
)
def test_counts_agree_with_brute_force(
    n_tokens: int, n_units: int, density: float, seed: int
) -> None:
    firing = drawn(n_tokens, n_units, density, seed)
    assert np.array_equal(counted(firing), brute_force(firing))


@pytest.mark.parametrize("density", [0.005, 0.1])
@pytest.mark.parametrize("n_units", [256, 517])
def test_counts_of_several_strips_and_blocks(
    n_units: int, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coactivation, "BLOCK_TOKENS", 300)
    firing = drawn(1001, n_units, density)
    assert np.array_equal(counted(firing), brute_force(firing))


@pytest.mark.parametrize("way", ["_int8_strips", "_float_strips", "_sparse_strips"])
@pytest.mark.parametrize("density", [0.0, 0.02, 1.0])
def test_every_way_of_counting_gives_the_same(
    way: str, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    firing = drawn(333, 131, density)
    given_block = firing if way == "_sparse_strips" else torch.from_numpy(firing)
    strips = getattr(coactivation, way)(given_block)
    monkeypatch.setattr(coactivation, "_strips", lambda *_: strips)
    assert np.array_equal(counted(firing), brute_force(firing))


def test_few_firings_are_counted_by_a_sparse_product(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for way in ("_int8_strips", "_float_strips", "_sparse_strips"):
        strips = getattr(coactivation, way)
        note = lambda block, way=way, strips=strips: used.append(way) or strips(block)  # noqa: E731
        monkeypatch.setattr(coactivation, way, note)
    counted(drawn(500, 200, 0.004))
    assert used == ["_sparse_strips"]
    counted(drawn(500, 200, 0.1))
    assert len(used) == 2
    assert used[1] != "_sparse_strips"


def test_counts_are_added_to_what_is_there() -> None:
    firing = drawn(120, 40, 0.3)
    counts = torch.full((40, 40), 5, dtype=torch.int32)
    for part in (firing[:50], firing[50:]):
        add_coactivations_(counts, part)
    assert np.array_equal(
        np.triu(counts.numpy()), brute_force(firing) + np.triu(np.full((40, 40), 5))
    )


def test_read_only_and_strided_firings_are_counted_and_left_alone() -> None:
    firing = drawn(60, 80, 0.3)[:, ::2]
    kept = firing.copy()
    firing.setflags(write=False)
    assert np.array_equal(counted(firing), brute_force(kept))
    assert np.array_equal(firing, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(5, 3), (1001, 517)])
def test_counts_on_a_gpu(shape: tuple[int, int]) -> None:
    firing = drawn(*shape, 0.1)
    counts = torch.zeros(shape[1], shape[1], dtype=torch.int32, device="cuda")
    add_coactivations_(counts, firing)
    assert np.array_equal(np.triu(counts.cpu().numpy()), brute_force(firing))


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_every_unit_of_every_document_is_rotated(
    lengths: list[int], n_units: int, seed: int
) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    firing = drawn(int(offsets[-1]), n_units, 0.4, seed)
    shifted = circular_shift(firing, offsets, np.random.default_rng(seed))
    assert shifted.dtype == np.uint8
    assert shifted.shape == firing.shape
    again = np.random.default_rng(seed)
    for first, last in pairwise(offsets):
        if last - first > 1:
            rotations = again.integers(0, last - first, size=n_units)
            for unit, rotation in enumerate(rotations):
                expected = np.roll(firing[first:last, unit], rotation)
                assert np.array_equal(shifted[first:last, unit], expected)


def test_counts_per_document_are_kept_and_the_input_is_left_alone() -> None:
    offsets = np.array([0, 1, 40, 40, 300, 301, 512])
    firing = drawn(512, 37, 0.1)
    kept = firing.copy()
    firing.setflags(write=False)
    shifted = circular_shift(firing, offsets, np.random.default_rng(1))
    for first, last in pairwise(offsets):
        assert np.array_equal(shifted[first:last].sum(0), firing[first:last].sum(0))
    assert np.array_equal(firing, kept)
    assert not np.array_equal(shifted, firing)


def test_blocks_of_documents_are_rotated_as_all_at_once() -> None:
    offsets = np.array([0, 7, 90, 130, 200])
    firing = drawn(200, 50, 0.3)
    whole = circular_shift(firing, offsets, np.random.default_rng(2))
    generator = np.random.default_rng(2)
    one = circular_shift(firing[:90], offsets[:3], generator)
    other = circular_shift(firing[90:], offsets[2:] - 90, generator)
    assert np.array_equal(np.concatenate([one, other]), whole)


@pytest.mark.parametrize("length", [7, 64, 100])
def test_rotations_are_uniform_and_independent(length: int) -> None:
    n_units = 20_000
    firing = np.zeros((2 * length, n_units), dtype=np.uint8)
    firing[[0, length]] = 1
    offsets = np.array([0, length, 2 * length])
    shifted = circular_shift(firing, offsets, np.random.default_rng(0))
    first, second = shifted[:length].argmax(0), shifted[length:].argmax(0)
    for places in (first, second, (second - first) % length, (first[1:] - first[:-1]) % length):
        assert chisquare(np.bincount(places, minlength=length)).pvalue > 1e-3


def test_what_units_share_beyond_their_rates_is_lost() -> None:
    n_documents, length = 200, 100
    together = (np.random.default_rng(0).random(n_documents * length) < 0.1).astype(np.uint8)
    firing = np.repeat(together[:, None], 40, axis=1)
    offsets = np.arange(n_documents + 1) * length
    counts = counted(circular_shift(firing, offsets, np.random.default_rng(0)))
    totals = firing.reshape(n_documents, length, 40)[:, :, 0].sum(1, dtype=np.int64)
    expected = float((totals**2 / length).sum())
    joint = counts[np.triu_indices(40, k=1)]
    assert abs(joint.mean() - expected) < 0.02 * expected
    assert joint.max() < 0.25 * together.sum()

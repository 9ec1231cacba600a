import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdlms.sae import latent_tables
from sdlms.sae.latent_tables import (
    Firing,
    LatentTables,
    TableSums,
    log_density_count,
    nearest_neighbours,
)
from sdlms.storage.latents import COLUMNS, LOG_DENSITY_EDGES
from tests.sae.measured_samples import LENGTHS, TASKS, some_positions

WIDTH = 6


def some_latents(n_rows: int, seed: int) -> NDArray[np.float32]:
    """Sparse, with many equal values; latent 0 never fires, latent 1 always does."""
    random = np.random.default_rng(seed)
    latents = np.maximum(random.integers(-4, 4, size=(n_rows, WIDTH)), 0).astype(np.float32)
    latents[:, 0] = 0
    latents[:, 1] = random.integers(1, 3, size=n_rows)
    return latents


def firing_of(latents: NDArray[np.float32], lengths: list[int], first: int, last: int) -> Firing:
    """Entries of the rows `first:last`."""
    rows, columns = np.nonzero(latents[first:last])
    documents = np.repeat(np.arange(len(lengths)), lengths)[first:last][rows]
    positions = some_positions(lengths)[first:last][rows].astype(np.int32)
    return Firing(columns, documents, positions, latents[first:last][rows, columns])


def tables_of(
    latents: NDArray[np.float32], lengths: list[int], tasks: list[str], cuts: list[int]
) -> LatentTables:
    sums = TableSums(WIDTH, len(lengths))
    for first, last in zip([0, *cuts], [*cuts, len(latents)], strict=True):
        sums.add(firing_of(latents, lengths, first, last))
    return sums.finish(len(latents), tasks, torch.eye(WIDTH, 8))


def check_top(found: LatentTables, latents: NDArray[np.float32], lengths: list[int]) -> None:
    """Against a loop over latents and documents."""
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(int)
    positions = some_positions(lengths)
    for latent in range(WIDTH):
        best = []
        for document in range(len(lengths)):
            own = latents[bounds[document] : bounds[document + 1], latent]
            if own.size and own.max() > 0:
                place = positions[bounds[document] + int(own.argmax())]
                best.append((-own.max(), document, place))
        best = sorted(best)[:10] + [(0, -1, -1)] * (10 - len(best))
        assert (-found.top_activation[latent]).tolist() == [value for value, _, _ in best]
        assert found.top_document[latent].tolist() == [document for _, document, _ in best]
        assert found.top_position[latent].tolist() == [place for _, _, place in best]


def test_every_table_agrees_with_a_loop() -> None:
    latents = some_latents(sum(LENGTHS), 0)
    found = tables_of(latents, LENGTHS, TASKS, [])
    documents = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    fires = latents > 0
    assert found.firing_count.tolist() == fires.sum(axis=0).tolist()
    assert found.firing_rate.tolist() == (fires.sum(axis=0) / len(latents)).tolist()
    for latent in range(1, WIDTH):
        assert found.mean_activation[latent] == latents[fires[:, latent], latent].mean(
            dtype=np.float64
        )
    assert np.isnan(found.mean_activation[0])
    for document in range(len(LENGTHS)):
        expected = fires[documents == document].sum(axis=0)
        assert found.document_counts[document].tolist() == expected.tolist()
    tasks = np.array(TASKS)[documents]
    for task, counts in zip(["b", "a", "c"], found.task_counts, strict=True):
        assert counts.tolist() == fires[tasks == task].sum(axis=0).tolist()
    check_top(found, latents, LENGTHS)
    assert found.log_density_count.sum() == WIDTH
    assert found.log_density_count[0] == 1


@given(
    st.lists(st.integers(0, 6), max_size=30),
    st.lists(st.floats(0, 1), max_size=5).map(sorted),
    st.integers(0, 9),
)
def test_blocks_change_no_bit(lengths: list[int], fractions: list[float], seed: int) -> None:
    latents = some_latents(sum(lengths), seed)
    cuts = [int(fraction * sum(lengths)) for fraction in fractions]
    tasks = [f"task {i % 3}" for i in range(len(lengths))]
    whole = tables_of(latents, lengths, tasks, [])
    cut = tables_of(latents, lengths, tasks, cuts)
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(cut.arrays()[name], array, err_msg=name)
    check_top(cut, latents, lengths)


def test_arrays_are_named_and_typed_as_in_the_file() -> None:
    found = tables_of(some_latents(sum(LENGTHS), 0), LENGTHS, TASKS, [5]).arrays()
    assert {name: array.dtype.name for name, array in found.items()} == {
        name: column.dtype for name, column in COLUMNS.items()
    }


def test_many_documents_are_ranked_beyond_ten() -> None:
    lengths = [2] * 100
    latents = some_latents(200, 1)
    latents[:, 2] = np.random.default_rng(2).random(200, dtype=np.float32)
    for cuts in ([], list(range(1, 200, 7))):
        check_top(tables_of(latents, lengths, ["a"] * 100, cuts), latents, lengths)


@pytest.mark.parametrize("block_bytes", [1, 4 * 40 * 7, 64 << 20])
def test_neighbours_are_the_nearest_of_all_pairs(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(latent_tables, "BLOCK_BYTES", block_bytes)
    decoder = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    neighbours, cosines = nearest_neighbours(decoder)
    rows = decoder.double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for latent in range(40):
        own = rows @ rows[latent]
        own[latent] = -np.inf
        expected = np.argsort(-own)[:5]
        assert neighbours[latent].tolist() == expected.tolist()
        np.testing.assert_allclose(cosines[latent], own[expected], atol=1e-6)


def test_a_parallel_row_of_another_norm_is_the_nearest() -> None:
    decoder = torch.randn(40, 9, generator=torch.Generator().manual_seed(0))
    decoder[3] = 5 * decoder[30]
    neighbours, cosines = nearest_neighbours(decoder)
    assert (neighbours[3, 0], neighbours[30, 0]) == (30, 3)
    assert (cosines[[3, 30], 0] > 1 - 1e-6).all()
    assert cosines.max() <= 1


@pytest.mark.parametrize("width", [1, 2, 4])
def test_where_there_are_few_latents_there_are_few_neighbours(width: int) -> None:
    neighbours, cosines = nearest_neighbours(torch.eye(width, 8))
    assert neighbours.shape == cosines.shape == (width, 5)
    for latent in range(width):
        others = sorted(set(range(width)) - {latent})
        assert sorted(neighbours[latent, : width - 1].tolist()) == others
    assert (neighbours[:, width - 1 :] == -1).all()
    assert np.isnan(cosines[:, width - 1 :]).all()
    assert (cosines[:, : width - 1] == 0).all()


def test_a_decoder_row_of_zeros_is_nobodys_neighbour() -> None:
    decoder = torch.eye(4, 8)
    decoder[2] = 0
    neighbours, cosines = nearest_neighbours(decoder)
    assert (neighbours[2] == -1).all()
    assert np.isnan(cosines[2]).all()
    assert 2 not in neighbours
    assert sorted(neighbours[0].tolist()) == [-1, -1, -1, 1, 3]


@pytest.mark.parametrize(
    ("rate", "place"), [(1.0, 24), (0.99, 24), (0.5, 23), (0.1, 21), (1e-6, 1), (1e-9, 1)]
)
def test_each_rate_has_its_bin(rate: float, place: int) -> None:
    found = log_density_count(np.array([rate]), width=3)
    assert found.nonzero()[0].tolist() == [0, place]
    assert found[0] == 2
    if rate >= 1e-6:
        assert LOG_DENSITY_EDGES[place - 1] <= np.log10(rate) <= LOG_DENSITY_EDGES[place]


def test_without_latents_that_fire_the_histogram_is_of_silent_ones() -> None:
    assert log_density_count(np.zeros(0), width=3).tolist() == [3] + [0] * 24

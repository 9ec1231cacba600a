"""Latents read as Acts are those that were written; of the file only what is needed is read."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlms.acts import load_acts, sparse_source
from sdlms.acts.description import whole
from sdlms.acts.explain import cost_of, peak_bytes
from sdlms.acts.handle import Acts, realize_all
from sdlms.acts.sources import Wanted
from sdlms.acts.sparse_source import SparseSource, source_of
from sdlms.errors import UserError
from sdlms.runs.writing import RunOptions, RunWriter
from tests.acts.samples import (
    LAYERS,
    Operation,
    acts_of,
    acts_then,
    file_of,
    sample,
    write_sample,
)
from tests.acts.sparse_samples import sparse_of, sparse_sample, write_sparse

LENGTHS = [40, 0, 7, 91, 30]
N_TOKENS = sum(LENGTHS)
DATA = sparse_sample(LENGTHS)
ENTRIES = {layer: int(acts.count_nonzero()) for layer, acts in DATA.acts.items()}
ALL_ENTRIES = sum(ENTRIES.values())
BLOCKS = [1, 1 << 10, 32 << 20]  # bytes: a document at a time, some, all


@pytest.fixture(params=BLOCKS)
def source(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> SparseSource:
    monkeypatch.setattr(sparse_source, "BLOCK_BYTES", request.param)
    return sparse_of(tmp_path / "a.h5", DATA)


# Every order of operations, against the same values stored densely

DOCUMENTS = st.builds(slice, st.integers(-3, 2)) | st.lists(st.sampled_from([0, -1]), max_size=3)
OPERATIONS = st.one_of(
    st.tuples(st.just("select_layers"), st.sampled_from(LAYERS)),
    st.tuples(st.just("select_layers"), st.lists(st.sampled_from(LAYERS), unique=True)),
    st.tuples(st.just("slice_batch"), DOCUMENTS),
    st.tuples(
        st.sampled_from(["mean_pool", "max_pool", "sum_pool", "last_pool"]), st.sampled_from("sl")
    ),
    st.tuples(st.just("cast"), st.sampled_from(["float16", "bfloat16"])),
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global _folder
    _folder = tmp_path_factory.mktemp("files")
    yield


_folder = Path()
_numbers = count()


def new_path() -> Path:
    return _folder / f"{next(_numbers)}.h5"


def after(acts: Acts, operations: list[Operation]) -> Acts | str:
    """What is left, or why it is refused."""
    for operation in operations:
        try:
            acts = acts_then(acts, operation)
        except UserError as error:
            return str(error)
    return acts


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.integers(0, 9),
    st.lists(OPERATIONS, max_size=4),
    st.sampled_from([*BLOCKS, 30]),
)
def test_latents_give_what_the_same_dense_file_gives(
    lengths: list[int], seed: int, operations: list[Operation], block_bytes: int
) -> None:
    data = sparse_sample(lengths, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_source, "BLOCK_BYTES", block_bytes)
        found = after(acts_of(sparse_of(new_path(), data)), operations)
        expected = after(acts_of(file_of(new_path(), data)), operations)
        if isinstance(found, str) or isinstance(expected, str):
            assert found == expected
            return
        assert (found.dims, found.shape, found.dtype) == (
            expected.dims, expected.shape, expected.dtype,
        )  # fmt: skip
        assert (found.layers, found.document_ids) == (expected.layers, expected.document_ids)
        one, other = found.realize(), expected.realize()
    torch.testing.assert_close(one.tensor, other.tensor, rtol=1e-6, atol=1e-6, equal_nan=True)
    for mask, same in ((one.mask, other.mask), (found.mask, expected.mask)):
        assert mask is same is None or (mask is not None and torch.equal(mask, same))


def test_a_whole_layer_is_bit_equal_to_what_was_written(source: SparseSource) -> None:
    acts = acts_of(source)
    assert torch.equal(acts.realize().tensor, DATA.padded)
    several = [acts, acts.mean_pool(), acts.max_pool()]
    assert torch.equal(realize_all(*several)[0].tensor, DATA.padded)
    for layer, one in acts.iter_layers():
        assert torch.equal(one.realize().tensor, DATA.padded[:, LAYERS.index(layer)])
    batches = [batch.tensor for batch in acts.iter_batches(2)]
    for first, batch in zip((0, 2, 4), batches, strict=True):
        assert torch.equal(batch, DATA.padded[first : first + 2, :, : batch.shape[2]])


def test_they_are_saved_and_kept_like_others(
    source: SparseSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "cache"))
    acts = acts_of(source)
    acts.save(tmp_path / "dense.h5")
    saved = load_acts(tmp_path / "dense.h5")
    assert saved.site == acts.site == "sae_latents"
    assert torch.equal(saved.realize().tensor, DATA.padded)
    assert acts.cache()._source is source  # it is on disk, and smaller there
    assert not (tmp_path / "cache").exists()
    pooled, read = acts.mean_pool(), source.bytes_read
    expected = pooled.realize().tensor
    for _ in range(2):
        found = pooled.cache().realize().tensor
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    once = cost_of(source, pooled._plan)[1].bytes_read
    assert source.bytes_read == read + 2 * once  # the second time nothing is read of it


# What is read


def entries(layers: tuple[int, ...], documents: list[int]) -> int:
    """Active latents of some documents."""
    offsets = DATA.rows.offsets
    return sum(
        int(DATA.acts[layer][offsets[d] : offsets[d + 1]].count_nonzero())
        for layer in layers
        for d in documents
    )


WHOLE = 8 * N_TOKENS
EVERYTHING = 3 * WHOLE + 8 * ALL_ENTRIES
COSTS: dict[str, tuple[Callable[[Acts], Acts], int]] = {
    "everything": (lambda a: a, EVERYTHING + N_TOKENS),
    "one layer": (lambda a: a.select_layers(3), WHOLE + 8 * ENTRIES[3] + N_TOKENS),
    "a layer where none is active": (lambda a: a.select_layers(4), WHOLE + N_TOKENS),
    "documents": (lambda a: a.slice_batch([4, 0]), 70 * 25 + 8 * entries(LAYERS, [4, 0])),
    "a document twice": (lambda a: a.slice_batch([2, 2]), 14 * 25 + 8 * entries(LAYERS, [2, 2])),
    "no documents": (lambda a: a.slice_batch([]), 0),
    "an empty document": (lambda a: a.slice_batch([1]), 0),
    "mean": (lambda a: a.mean_pool(), EVERYTHING + 3 * N_TOKENS),
    "mean of some": (
        lambda a: a.slice_batch(slice(2, None)).mean_pool(),
        128 * 27 + 8 * entries(LAYERS, [2, 3, 4]),
    ),
    "layers pooled": (lambda a: a.mean_pool("l"), EVERYTHING + N_TOKENS),
    "both pooled": (lambda a: a.max_pool("l").mean_pool(), EVERYTHING + N_TOKENS),
}


@pytest.mark.parametrize("what", COSTS)
def test_what_is_read_is_what_was_announced_and_no_more(source: SparseSource, what: str) -> None:
    build, expected = COSTS[what]
    acts = build(acts_of(source))
    assert source.bytes_read == 0
    predicted = cost_of(source, acts._plan)[1].bytes_read
    acts.realize()
    assert source.bytes_read == predicted == expected
    if predicted:
        assert f"{predicted:,} bytes" in acts.explain()


def test_of_last_tokens_only_their_entries_are_read(source: SparseSource) -> None:
    acts = acts_of(source).last_pool()
    predicted = cost_of(source, acts._plan)[1].bytes_read
    acts.realize()
    pointers = N_TOKENS + 3 * 4 * 16
    for read in (predicted, source.bytes_read):
        assert pointers - 3 * 4 * 8 <= read <= pointers + 3 * 4 * 3 * 8


def test_the_tokens_are_those_of_any_file(source: SparseSource) -> None:
    ranges = whole(source.description, np.array([2, 1, 0]))
    expected = np.concatenate([np.arange(41, 48), np.arange(1, 41)])
    assert np.array_equal(source.ids(ranges), expected)
    mask = DATA.rows.mask[np.concatenate([np.arange(40, 47), np.arange(40)])]
    assert np.array_equal(source.mask(ranges), mask)


def test_dense_rows_stay_within_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide layer is read in many blocks, and `explain` says what they take."""
    monkeypatch.setattr(sparse_source, "BLOCK_BYTES", 1 << 16)
    data = sparse_sample([9] * 200, layers=(1, 2), n_units=512)
    source = sparse_of(tmp_path / "a.h5", data)
    seen: list[int] = []
    wanted = Wanted(whole(source.description, np.arange(200)), [1, 2], False, together=False)
    source.scan(wanted, lambda _, acts: [acts], lambda _, __, found: seen.append(found[0].nbytes))
    assert max(seen) <= 1 << 16
    assert sum(seen) == 2 * 1800 * 512 * 4
    pooled = acts_of(source).select_layers(1).mean_pool()
    result = 200 * 512 * 4
    assert result + max(seen) <= peak_bytes(source, pooled._plan) <= result + 3 * max(seen)


def test_it_describes_itself(source: SparseSource) -> None:
    found = source.description
    assert (found.dims, found.site, found.layers, found.n_units) == (
        "blsh",
        "sae_latents",
        LAYERS,
        3,
    )
    assert (found.dtype, found.lengths.tolist()) == (torch.float32, LENGTHS)
    assert (found.header.model, found.header.control) == ("tiny", "reinit")
    assert source.place == "a.h5 sae_latents"
    assert "a.h5 sae_latents: blsh, 3 layers, 5 documents" in acts_of(source).explain()


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    acts = acts_of(sparse_of(tmp_path / "a.h5", DATA)).mean_pool()
    write_sparse(tmp_path / "a.h5", sparse_sample(LENGTHS, 1))
    with pytest.raises(UserError, match="changed since it was loaded"):
        acts.realize()


# Opening


def made_run(artifacts: Path) -> Path:
    with RunWriter("sae-latents", {"seed": 0}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        write_sparse(out.path / "sparse_acts.h5", DATA)
        out.output("sparse_acts.h5")
    return out.path


def test_a_run_and_a_file_are_loaded_by_the_one_door(tmp_path: Path) -> None:
    run = made_run(tmp_path / "artifacts")
    for reference in (run, run.name, run / "sparse_acts.h5"):
        acts = load_acts(reference, artifacts=tmp_path / "artifacts")
        assert torch.equal(acts.realize().tensor, DATA.padded)
    one = source_of(run, tmp_path, None)
    moved = run.rename(tmp_path / "elsewhere")
    assert source_of(moved, tmp_path, "sae_latents").fingerprint() == one.fingerprint()
    file = source_of(moved / "sparse_acts.h5", tmp_path, None)
    assert file.fingerprint() != one.fingerprint()
    with pytest.raises(UserError, match="holds no site 'mlp_act', but sae_latents"):
        load_acts(moved, "mlp_act")


def test_latest_stays_the_newest_capture(tmp_path: Path) -> None:
    with RunWriter("capture", {"seed": 0}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
        write_sample(out.path / "activations.h5", sample([3, 4]))
        out.output("activations.h5")
    made_run(tmp_path)
    assert load_acts("latest", artifacts=tmp_path).site == "resid_post"


@pytest.mark.parametrize("part", ["indptr", "values", "document_starts"])
def test_a_damaged_file_is_one_line(tmp_path: Path, part: str) -> None:
    path = write_sparse(tmp_path / "a.h5", DATA)
    with h5py.File(path, "a") as file:
        del file[f"/latents/layer_3/{part}"]
    with pytest.raises(UserError, match="damaged") as refused:
        load_acts(path)
    assert "\n" not in str(refused.value)


def test_widths_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    for widths in ([], [3], [3, 3, 4], [0, 0, 0], [-1] * 3, [1 << 40] * 3, 3, ["x"] * 3):
        path = write_sparse(tmp_path / "a.h5", DATA)
        with h5py.File(path, "a") as file:
            file.attrs["widths"] = widths
        with pytest.raises(UserError, match="damaged") as refused:
            load_acts(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "row", "value"),
    [
        ("indices", 5, 3),  # of 3 latents
        ("indices", 5, -1),
        ("indptr", 10, 1 << 60),
        ("indptr", 10, -5),
        ("indptr", 41, 0),
        ("indptr", 40, "+1"),  # where a document begins
        ("indptr", N_TOKENS, "+1"),
        ("indptr", 41, -(1 << 63)),  # so that differences wrap
        ("document_starts", 1, "+1"),
        ("document_starts", 3, -1),
        ("document_starts", 2, 1 << 60),
        ("document_starts", 0, 1),
        ("document_starts", 5, "+1"),
    ],
)
def test_numbers_that_contradict_each_other_are_one_line(
    tmp_path: Path, part: str, row: int, value: int | str
) -> None:
    path = write_sparse(tmp_path / "a.h5", DATA)
    with h5py.File(path, "a") as file:
        numbers = file[f"/latents/layer_3/{part}"]
        numbers[row] = numbers[row] + 1 if value == "+1" else value
    for reads in (
        lambda acts: acts.mean_pool().realize(),
        lambda acts: acts.realize(),
        lambda acts: acts.last_pool().realize(),
    ):
        try:
            reads(load_acts(path).select_layers([3]))
        except UserError as error:
            assert "it is damaged (/latents/layer_3/" in str(error) and "\n" not in str(error)
        else:
            assert reads.__code__.co_names[0] == "last_pool"  # which may not read that row
    assert load_acts(path).select_layers([1]).realize() if part in ("indices", "indptr") else True


@pytest.mark.parametrize(
    ("part", "change"),
    [("indptr", -1), ("values", -1), ("indices", 1), ("document_starts", 1)],
)
def test_parts_of_other_sizes_are_one_line(tmp_path: Path, part: str, change: int) -> None:
    path = write_sparse(tmp_path / "a.h5", DATA)
    with h5py.File(path, "a") as file:
        name = f"/latents/layer_3/{part}"
        values = np.resize(file[name][()], len(file[name]) + change)
        del file[name]
        file[name] = values
    with pytest.raises(UserError, match=r"damaged \(/latents/layer_3/"):
        load_acts(path)
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = 1
    with pytest.raises(UserError, match="damaged"):
        load_acts(path)


def test_entries_are_those_of_the_rows_that_are_named(source: SparseSource) -> None:
    documents = np.array([3, 0, 1, 4])
    ranges = whole(source.description, documents)
    before = source.bytes_read
    for layer, acts in DATA.acts.items():
        dense, seen = torch.zeros(ranges.n_rows, acts.shape[1]), []
        for positions, found in source.entries(layer, ranges):
            seen += positions.tolist()
            first = ranges.offsets[positions[0]]
            rows = first + np.repeat(np.arange(len(found.counts)), found.counts)
            assert len(found.counts) == ranges.lengths[positions].sum()
            dense[rows, found.indices] = torch.from_numpy(found.values)
        pieces = [acts[DATA.rows.offsets[d] : DATA.rows.offsets[d + 1]] for d in documents]
        assert torch.equal(dense, torch.cat(pieces))
        assert seen == [0, 1, 2, 3]
    assert source.bytes_read > before

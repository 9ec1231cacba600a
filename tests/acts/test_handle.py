"""Handles do nothing until they are asked; what they give then is what plain loops give."""

import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from sdlms.acts.handle import Acts, realize_all
from sdlms.acts.live_source import live_source
from sdlms.errors import UserError
from tests.acts.samples import (
    LAYERS,
    Counting,
    Eager,
    Operation,
    Sample,
    acts_of,
    acts_then,
    eager_of,
    eager_then,
    file_of,
    rows_with,
    sample,
)
from tests.models.tiny_models import random_model

LENGTHS = [4, 0, 7, 1, 5]
POOLS = ("mean_pool", "max_pool", "sum_pool", "last_pool")


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(file_of(tmp_path / "a.h5", sample(LENGTHS)))


# Nothing is read before it is asked for


def test_building_and_describing_read_nothing(counting: Counting) -> None:
    acts = acts_of(counting)
    chains = [
        acts,
        acts.select_layers([4, 1]).slice_batch([0, -1]).mean_pool().cast("float16").to("cpu"),
        acts.slice_batch(slice(1, None)).last_pool().max_pool("l"),
        acts.select(layer=3).sum_pool("s"),
        acts.max_pool("l").mean_pool(),
    ]
    for one in chains:
        facts = (one.dims, one.shape, one.dtype, one.layers, one.n_documents, one.n_units, one.site)
        assert len(facts) == 7
        assert one.document_ids and one.document_tasks and len(one.lengths) == one.n_documents
        assert repr(one).startswith("Acts(") and one.explain()
        assert one.pools is not None and not one.is_realized
        if "l" in one.dims:
            one.iter_layers()
        one.iter_batches(2)
    assert counting.calls == []
    assert counting.source.bytes_read == 0  # type: ignore[attr-defined]


def test_the_work_is_done_where_it_is_asked_for(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "cache"))
    acts = acts_of(counting).mean_pool()
    for work in (
        acts.realize,
        lambda: acts.save(tmp_path / "b.h5"),
        acts.cache,
        lambda: next(acts.iter_batches(2)),
        lambda: next(iter(acts.iter_layers())),
    ):
        counting.calls.clear()
        work()
        assert counting.calls.count("scan") == 1


def test_handles_are_never_changed(counting: Counting) -> None:
    acts = acts_of(counting)
    before = acts.explain()
    for operation in OPERATION_EXAMPLES:
        assert acts_then(acts, operation) is not acts
    assert acts.explain() == before


OPERATION_EXAMPLES: list[Operation] = [
    ("select_layers", 3),
    ("select_layers", [3, 1]),
    ("slice_batch", slice(1, 3)),
    *((pool, "s") for pool in POOLS),
    *((pool, "l") for pool in POOLS if pool != "last_pool"),
    ("cast", "bfloat16"),
    ("to", "cpu"),
]


# Every order of operations against plain loops

DOCUMENTS = st.one_of(
    st.builds(
        slice,
        st.none() | st.integers(-7, 7),
        st.none() | st.integers(-7, 7),
        st.sampled_from([None, 1, 2, -1, -2]),
    ),
    st.lists(st.integers(-6, 5), max_size=4),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("select_layers"), st.sampled_from([*LAYERS, 2, -1])),
    st.tuples(
        st.just("select_layers"),
        st.lists(st.sampled_from(LAYERS), unique=True, min_size=1)
        | st.lists(st.sampled_from([*LAYERS, 2]), max_size=3),
    ),
    st.tuples(st.just("slice_batch"), DOCUMENTS),
    st.tuples(st.sampled_from(POOLS), st.sampled_from("sl")),
    st.tuples(st.just("cast"), st.sampled_from(["float16", "bfloat16", "float32"])),
    st.tuples(st.just("to"), st.just("cpu")),
)


def possible(layers: tuple[int, ...]) -> st.SearchStrategy[list[Operation]]:
    """Sequences that are seldom refused: each axis is pooled or selected away at most once."""
    some = st.lists(st.sampled_from(layers), unique=True, min_size=1)
    reduced = st.one_of(
        st.tuples(st.sampled_from(POOLS[:3]), st.just("l")),
        st.tuples(st.just("select_layers"), st.sampled_from(layers)),
    )
    parts: list[st.SearchStrategy[Operation]] = [
        st.tuples(st.sampled_from(POOLS), st.just("s")),
        reduced,
        st.tuples(st.just("slice_batch"), st.builds(slice, st.integers(-3, 2))),
        st.tuples(st.just("slice_batch"), st.lists(st.sampled_from([0, -1]), max_size=3)),
        st.tuples(st.just("cast"), st.sampled_from(["float16", "bfloat16", "float32"])),
    ]
    first = st.tuples(st.just("select_layers"), some).map(lambda one: [one]) | st.just([])
    chosen = st.lists(st.sampled_from(range(5)), unique=True, max_size=5)
    rest = chosen.flatmap(lambda which: st.tuples(*(parts[i] for i in which)))
    return st.builds(lambda a, b: [*a, *b], first, rest)


SEQUENCES = st.one_of(possible(LAYERS), possible(LAYERS), st.lists(OPERATIONS, max_size=6))
RAGGED = st.lists(st.integers(0, 6), min_size=1, max_size=6)
STORED = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
ULP = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def both(acts: Acts, state: Eager, operations: list[Operation]) -> tuple[Acts, Eager] | None:
    """Both sides after all operations; None where one is refused, by both, by its name."""
    delivered: torch.dtype | None = None
    for operation in operations:
        if operation[0] == "cast":
            delivered = getattr(torch, operation[1])
        try:
            state = eager_then(state, operation)
        except UserError as refused:
            with pytest.raises(UserError, match=f"^{re.escape(str(refused))}") as error:
                acts_then(acts, operation)
            assert "\n" not in str(error.value)
            return None
        acts = acts_then(acts, operation)
    if delivered is not None:
        state = Eager(**{**vars(state), "dtype": delivered})
    return acts, state


def assert_same(acts: Acts, state: Eager, slack: float = 1e-5) -> None:
    assert acts.dims == state.dims
    assert acts.shape == tuple(state.tensor.shape)
    assert acts.layers == state.layers
    assert acts.dtype == state.dtype
    found = acts.realize()
    assert found.tensor.dtype == state.dtype and found.shape == tuple(found.tensor.shape)
    expected = state.tensor.to(torch.float32).to(state.dtype)
    assert (found.tensor.isnan() == expected.isnan()).all()
    rtol = max(slack, ULP[state.dtype])
    torch.testing.assert_close(found.tensor, expected, rtol=rtol, atol=slack, equal_nan=True)
    if "s" in state.dims:
        lengths = torch.tensor(state.lengths)
        assert found.lengths.tolist() == list(state.lengths)
        mask = torch.zeros(len(lengths), max(state.lengths, default=0), dtype=torch.bool)
        for document, kept in enumerate(state.mask):
            mask[document, : len(kept)] = torch.tensor(kept, dtype=torch.bool)
        assert found.mask is not None and acts.mask is not None
        assert torch.equal(found.mask, mask) and torch.equal(acts.mask, mask)
    else:
        assert found.mask is None and acts.mask is None


@settings(max_examples=250)
@given(RAGGED, st.integers(0, 9), STORED, SEQUENCES)
def test_a_tensor_gives_what_loops_give(
    lengths: list[int], seed: int, dtype: torch.dtype, operations: list[Operation]
) -> None:
    data = sample(lengths, seed, dtype=dtype)
    state, tensor = eager_of(data, cut_behind_mask=True), data.padded
    for document, length in enumerate(state.lengths):
        tensor[document, :, length:] = torch.nan  # padding is never read
    done = both(Acts(tensor, "blsh", data.padded_mask, LAYERS), state, operations)
    if done is not None and not done[0].is_realized:
        assert_same(*done)


@settings(max_examples=250)
@given(RAGGED, st.integers(0, 9), STORED, SEQUENCES, st.sampled_from([1, 5, 8192]))
def test_a_file_gives_what_loops_give(
    lengths: list[int],
    seed: int,
    dtype: torch.dtype,
    operations: list[Operation],
    block_tokens: int,
) -> None:
    data = sample(lengths, seed, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdlms.acts.sources.BLOCK_TOKENS", block_tokens)
        done = both(acts_of(file_of(new_path(), data)), eager_of(data), operations)
        if done is not None:
            assert_same(*done)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global _folder
    _folder = tmp_path_factory.mktemp("files")
    yield


_folder = Path()
_numbers = count()


def new_path() -> Path:
    return _folder / f"{next(_numbers)}.h5"


# A live model, against its own hidden states of each document alone


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model("gpt2-n_inner")


LIVE_LENGTHS = [5, 0, 9, 1, 9, 3]
LIVE_LAYERS = (0, 1, 2)


@torch.no_grad()
def own_sample(model: PreTrainedModel, dtype: torch.dtype) -> Sample:
    """The model's own hidden states, rounded to the stored type."""
    generator = np.random.default_rng(1)
    rows = rows_with(LIVE_LENGTHS, generator.random(sum(LIVE_LENGTHS)) > 0.3)
    pieces: dict[int, list[Tensor]] = {layer: [] for layer in LIVE_LAYERS}
    for first, last in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        if first == last:
            continue
        ids = torch.from_numpy(rows.ids[first:last]).long()[None]
        states = model(ids, output_hidden_states=True).hidden_states
        for layer in LIVE_LAYERS:
            pieces[layer].append(states[layer + 1][0])
    return Sample({layer: torch.cat(found).to(dtype) for layer, found in pieces.items()}, rows)


@pytest.fixture(scope="module")
def own(model: PreTrainedModel) -> dict[torch.dtype, Sample]:
    return {dtype: own_sample(model, dtype) for dtype in ULP}


LIVE_OPERATIONS = st.one_of(
    possible(LIVE_LAYERS), possible(LIVE_LAYERS), st.lists(OPERATIONS, max_size=5)
)


@settings(max_examples=200)
@given(operations=LIVE_OPERATIONS, stored=st.sampled_from(["float32", "float16", "bfloat16"]))
def test_a_model_gives_what_loops_give(
    model: PreTrainedModel,
    own: dict[torch.dtype, Sample],
    operations: list[Operation],
    stored: str,
) -> None:
    data = own[getattr(torch, stored)]
    source = live_source(model, data.rows, LIVE_LAYERS, "resid_post", stored)  # type: ignore[arg-type]
    source.budget = 12
    done = both(acts_of(source), eager_of(data), operations)
    if done is not None:
        # One rounding step where a value lies on a boundary; a sum may collect one per token.
        slack = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}[stored]
        magnitude = float(data.padded.float().abs().max())
        assert_same(*done, slack=slack * (1 if stored == "float32" else max(1, magnitude)))


@pytest.mark.parametrize("layers_first", [True, False])
@pytest.mark.parametrize("over_layers", POOLS[:3])
@pytest.mark.parametrize("over_tokens", [*POOLS, None])
def test_every_pair_of_pools_gives_what_loops_give(
    model: PreTrainedModel,
    own: dict[torch.dtype, Sample],
    over_tokens: str | None,
    over_layers: str,
    layers_first: bool,
) -> None:
    data = own[torch.float32]
    operations: list[Operation] = [(over_layers, "l")]
    if over_tokens is not None:
        operations.insert(1 if layers_first else 0, (over_tokens, "s"))
    operations.insert(0, ("select_layers", [2, 0]))
    source = live_source(model, data.rows, LIVE_LAYERS, "resid_post", "float32")
    source.budget = 12
    tensor = Acts(data.padded, "blsh", data.padded_mask, LIVE_LAYERS)
    for acts, state in (
        (acts_of(source), eager_of(data)),
        (acts_of(file_of(new_path(), data)), eager_of(data)),
        (tensor, eager_of(data, cut_behind_mask=True)),
    ):
        done = both(acts, state, operations)
        assert done is not None
        assert_same(*done)


def test_most_values_of_a_model_are_rounded_as_its_own_are(
    model: PreTrainedModel, own: dict[torch.dtype, Sample]
) -> None:
    for stored in ("float16", "bfloat16"):
        data = own[getattr(torch, stored)]
        found = acts_of(live_source(model, data.rows, LIVE_LAYERS, "resid_post", stored)).realize()  # type: ignore[arg-type]
        equal = (found.tensor == data.padded).float().mean()
        assert equal > 0.99
        ulp = ULP[getattr(torch, stored)]
        torch.testing.assert_close(found.tensor, data.padded, rtol=ulp, atol=1e-5)


# Iterating


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_batches_together_are_the_whole(counting: Counting, size: int, pooled: bool) -> None:
    acts = acts_of(counting).select_layers([3, 1]).slice_batch([4, 0, 2, 3])
    acts = acts.mean_pool() if pooled else acts
    whole, first = acts.realize(), 0
    for batch in acts.iter_batches(size):
        assert batch.is_realized and 1 <= batch.n_documents <= size
        assert batch.document_ids == whole.document_ids[first : first + batch.n_documents]
        expected = whole.tensor[first : first + batch.n_documents]
        if not pooled:
            longest = batch.tensor.shape[2]
            assert longest == max(batch.lengths)
            assert not expected[:, :, longest:].any()
            expected = expected[:, :, :longest]
        torch.testing.assert_close(batch.tensor, expected, rtol=0, atol=0, equal_nan=True)
        first += batch.n_documents
    assert first == 4


def test_batches_read_only_their_own_documents(counting: Counting) -> None:
    batches = acts_of(counting).select_layers(3).iter_batches(1)
    next(batches)
    assert counting.rows_seen == [(3, LENGTHS[0])]


def test_batches_of_nothing(counting: Counting) -> None:
    assert list(acts_of(counting).slice_batch([]).iter_batches(3)) == []


def test_many_batches_hold_little_memory() -> None:
    """100,000 documents in batches of 10: the plans of all batches at once would be 8 GB."""
    import tracemalloc

    acts = Acts(torch.zeros(100_000, 1), "bh")
    tracemalloc.start()
    for number, _ in enumerate(acts.iter_batches(10)):
        if number == 100:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_bad_batch_size_fails_at_once(counting: Counting) -> None:
    for size in (0, -1):
        with pytest.raises(UserError, match=f"iter_batches: the batch size .* got {size}"):
            acts_of(counting).iter_batches(size)


def test_layers_one_by_one_are_the_layers(counting: Counting) -> None:
    acts = acts_of(counting).select_layers([4, 1])
    for one in (acts, acts.mean_pool(), acts.slice_batch([2, 0]).last_pool()):
        seen = []
        for layer, alone in one.iter_layers():
            seen.append(layer)
            assert alone.dims == one.dims.replace("l", "") and alone.layers == (layer,)
            expected = one.select_layers(layer).realize()
            found = alone.realize().tensor
            torch.testing.assert_close(found, expected.tensor, rtol=0, atol=0, equal_nan=True)
            assert alone.is_realized == ("s" not in alone.dims)
        assert seen == [4, 1]


def test_one_layer_at_a_time_reads_one_layer_at_a_time(counting: Counting) -> None:
    layers = acts_of(counting).mean_pool().iter_layers()
    next(layers)
    assert counting.rows_seen == [(1, sum(LENGTHS))]
    next(layers)
    assert counting.rows_seen == [(1, sum(LENGTHS)), (3, sum(LENGTHS))]


def test_no_layers_no_iteration_at_once(counting: Counting) -> None:
    with pytest.raises(UserError, match="iter_layers: these activations have dims 'bsh'"):
        acts_of(counting).select_layers(1).iter_layers()


@pytest.mark.parametrize("pooled", [False, True])
def test_a_model_runs_once_for_all_layers(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path))
    rows = rows_with(LIVE_LENGTHS)
    source = live_source(model, rows, "all", "mlp_act", "float32")
    source.budget = 9
    seen: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(args[0].shape[0])
    )
    acts = acts_of(source)
    acts = acts.mean_pool() if pooled else acts
    spilled = []
    for layer, alone in acts.iter_layers():
        assert alone.layers == (layer,)
        spilled.append(len(list(tmp_path.iterdir())))
        alone.realize()
    handle.remove()
    assert len(spilled) == 4 and set(spilled) == {0 if pooled else 1}
    assert sum(seen) == sum(length > 0 for length in LIVE_LENGTHS)  # each document once
    assert source.n_forwards == len(seen)
    assert list(tmp_path.iterdir()) == []


def test_the_spill_is_gone_however_the_loop_ends(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "new/cache"))
    acts = acts_of(live_source(model, rows_with([3, 4]), "all", "resid_post", "float32"))
    layers = acts.iter_layers()
    _, first = next(layers)
    assert list((tmp_path / "new/cache").iterdir())
    layers.close()  # type: ignore[attr-defined]
    assert not list((tmp_path / "new/cache").iterdir())
    with pytest.raises(UserError, match=r"Use it inside the loop, or call cache\(\) first"):
        first.realize()

    def interrupted() -> None:
        for _ in acts.iter_layers():
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    import gc

    gc.collect()
    assert not list((tmp_path / "new/cache").iterdir())


def test_a_spill_folder_that_cannot_be_written_is_one_clear_line(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "file"))
    acts = acts_of(live_source(model, rows_with([3]), "all", "resid_post"))
    with pytest.raises(UserError, match="cannot write to"):
        next(iter(acts.iter_layers()))


def test_a_spilled_layer_is_delivered_in_type_and_place(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path))
    acts = acts_of(live_source(model, rows_with([3, 2]), [2, 0], "resid_post", "float32"))
    for _, alone in acts.cast("bfloat16").to("meta").iter_layers():
        found = alone.realize().tensor
        assert found.dtype == torch.bfloat16 and found.device.type == "meta"


# Small things


def test_the_tensor_is_there_only_when_it_is() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    acts = Acts(tensor, "bh")
    assert acts.is_realized and torch.equal(acts.tensor, tensor)
    lazy = acts.slice_batch([1])
    with pytest.raises(UserError, match=r"not in memory yet. Call realize\(\) first"):
        _ = lazy.tensor
    assert torch.equal(lazy.realize().tensor, tensor[1:])


def test_realizing_twice_does_the_work_once(counting: Counting) -> None:
    done = acts_of(counting).mean_pool().realize()
    n_calls = len(counting.calls)
    again = done.realize()
    assert again.tensor is done.tensor and len(counting.calls) == n_calls


def test_realize_all_keeps_the_order_of_its_arguments(counting: Counting) -> None:
    acts = acts_of(counting)
    held = Acts(torch.ones(1, 3), "bh")
    found = realize_all(acts.mean_pool(), held, acts.select_layers(1), acts.slice_batch([0]))
    assert [one.dims for one in found] == ["blh", "bh", "bsh", "blsh"]
    assert found[1] is held and realize_all() == []


def test_select_is_select_layers(counting: Counting) -> None:
    acts = acts_of(counting)
    assert acts.select(layer=3).explain() == acts.select_layers(3).explain()
    assert acts.select(layer=[3, 1]).layers == (3, 1)


def test_what_was_done_is_known_afterwards(counting: Counting) -> None:
    acts = acts_of(counting).slice_batch([3, 0]).select_layers([4, 1]).max_pool("l").last_pool()
    for one in (acts, acts.realize(), acts.realize().slice_batch([1, 0]).realize()):
        assert one.pools == ("last s", "max l")
        assert one.layers == (4, 1)
        assert one.site == "resid_post"
    assert acts.realize().document_ids == [f"{i:016x}" for i in (3, 0)]
    assert acts.realize().document_tasks == ["maths", "prosé"]
    assert acts.lengths.tolist() == [1, 1]


def test_a_repr_says_what_it_is(counting: Counting) -> None:
    acts = acts_of(counting)
    assert repr(acts) == "Acts(blsh [5, 3, 7, 3], resid_post, lazy)"
    assert repr(acts.mean_pool().realize()) == "Acts(blh [5, 3, 3], resid_post, in memory)"

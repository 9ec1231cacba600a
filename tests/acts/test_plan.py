"""Operations fold into one normal form; what cannot be done is refused when it is written down."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdlms.acts.description import Description
from sdlms.acts.handle import Acts
from sdlms.acts.plan import (
    Plan,
    Pool,
    with_device,
    with_documents,
    with_dtype,
    with_layers,
    with_pool,
)
from sdlms.errors import UserError
from tests.acts.samples import LAYERS, acts_of, file_of, sample


@pytest.fixture
def source(tmp_path: Path) -> Description:
    return file_of(tmp_path / "a.h5", sample([3, 5])).description


@pytest.fixture
def acts(tmp_path: Path) -> Acts:
    return acts_of(file_of(tmp_path / "b.h5", sample([3, 5])))


def pooled(source: Description, *pools: tuple[str, str]) -> Plan:
    plan = Plan(source.layers)
    for kind, axis in pools:
        plan = with_pool(plan, source, Pool(kind, axis))  # type: ignore[arg-type]
    return plan


@pytest.mark.parametrize(
    ("first", "second"),
    [("mean", "mean"), ("mean", "sum"), ("sum", "mean"), ("max", "max"), ("max", "last"),
     ("mean", "last"), ("sum", "last")],
)  # fmt: skip
def test_tokens_are_pooled_first_where_the_two_commute(
    source: Description, first: str, second: str
) -> None:
    assert pooled(source, (first, "l"), (second, "s")).pools == ((second, "s"), (first, "l"))


@pytest.mark.parametrize(("first", "second"), [("max", "mean"), ("mean", "max"), ("sum", "max")])
def test_an_order_that_matters_is_kept(source: Description, first: str, second: str) -> None:
    assert pooled(source, (first, "l"), (second, "s")).pools == ((first, "l"), (second, "s"))
    assert pooled(source, (second, "s"), (first, "l")).pools == ((second, "s"), (first, "l"))


def test_selections_fold_into_one(source: Description) -> None:
    plan = with_layers(Plan(source.layers), source, [4, 3])
    plan = with_layers(plan, source, np.int64(4))
    assert plan.layers == (4,)
    assert plan.one_layer
    assert plan.dims(source) == "bsh"
    plan = with_documents(plan, source, [-1, 0, 1])
    plan = with_documents(plan, source, slice(None, None, -1))
    plan = with_documents(plan, source, np.array([0, 2], dtype=np.uint8))
    assert plan.chosen(source).tolist() == [1, 1]


def test_the_last_cast_counts_and_pooling_delivers_float32(source: Description) -> None:
    plan = Plan(source.layers)
    assert plan.delivered(source) == source.dtype
    plan = with_dtype(with_dtype(plan, "float16"), torch.bfloat16)
    assert plan.delivered(source) == torch.bfloat16
    assert with_pool(plan, source, Pool("mean", "s")).delivered(source) == torch.bfloat16
    assert pooled(source, ("max", "l")).delivered(source) == torch.float32


def test_a_plan_that_changes_nothing_is_nothing(source: Description) -> None:
    plan = Plan(source.layers)
    assert plan.is_nothing(source)
    assert with_dtype(with_layers(plan, source, LAYERS), "float32").is_nothing(source)
    assert with_device(plan, "cpu").is_nothing(source)
    for changed in (
        with_layers(plan, source, LAYERS[::-1]),
        with_layers(plan, source, LAYERS[:1]),
        with_documents(plan, source, [0, 1]),
        with_dtype(plan, "float16"),
        with_device(plan, "meta"),
        pooled(source, ("mean", "s")),
    ):
        assert not changed.is_nothing(source)


def test_a_slice_keeps_only_what_it_holds(source: Description) -> None:
    """A view would keep the indices of every document alive in every batch."""
    assert with_documents(Plan(source.layers), source, slice(0, 1)).documents.base is None


REFUSALS: dict[str, tuple[Callable[[Acts], Any], str]] = {
    "unknown layer": (lambda a: a.select_layers(2), r"select_layers: there is no layer 2; .* 1, 3"),
    "negative layer": (lambda a: a.select_layers([1, -1]), r"select_layers: .* no layer -1"),
    "layer left out before": (
        lambda a: a.select_layers([1, 3]).select_layers(4),
        r"select_layers: there is no layer 4; these are 1, 3\.",
    ),
    "layer twice": (lambda a: a.select_layers([3, 3]), r"select_layers: \[3, 3\] names .* twice"),
    "no layer": (lambda a: a.select_layers([]), "select_layers: no layer"),
    "half a layer": (lambda a: a.select_layers([1.5]), "select_layers: takes a number"),
    "a layer's name": (lambda a: a.select_layers("1"), "select_layers: takes a number"),
    "a mask of layers": (lambda a: a.select_layers([True, False]), "select_layers: takes a number"),
    "ragged layers": (lambda a: a.select_layers([[1], [1, 2]]), "select_layers: takes a number"),
    "ragged documents": (lambda a: a.slice_batch([[0, 1], [2]]), "slice_batch: takes a slice"),
    "no device": (lambda a: a.to(None), "to: 'None' is no device"),
    "half a batch": (lambda a: a.iter_batches(1.5), "iter_batches: the batch size .* got 1.5"),
    "layers without l": (
        lambda a: a.select_layers(1).select_layers(1),
        "select_layers: these activations have dims 'bsh', no l",
    ),
    "layers pooled away": (lambda a: a.mean_pool("l").select_layers(1), "select_layers: .*'bsh'"),
    "document beyond": (
        lambda a: a.slice_batch([0, 2]),
        "slice_batch: there is no document 2; .*2",
    ),
    "document before": (lambda a: a.slice_batch([-3]), "slice_batch: there is no document -3"),
    "document of none": (lambda a: a.slice_batch([]).slice_batch([0]), "slice_batch: .*document 0"),
    "bool index": (lambda a: a.slice_batch([True, False]), "slice_batch: takes a slice or a list"),
    "bool array": (lambda a: a.slice_batch(np.array([True, False])), "slice_batch: takes a slice"),
    "float index": (lambda a: a.slice_batch([0.0]), "slice_batch: takes a slice"),
    "float slice": (lambda a: a.slice_batch(slice(0.5, 1)), "slice_batch: .*indices must be int"),
    "step of zero": (lambda a: a.slice_batch(slice(0, 2, 0)), "slice_batch: .*step"),
    "one index": (lambda a: a.slice_batch(0), "slice_batch: takes a slice"),
    "a table of indices": (lambda a: a.slice_batch([[0], [1]]), "slice_batch: takes a slice"),
    "pool without s": (
        lambda a: a.mean_pool().max_pool(),
        r"max_pool\(dim='s'\): these activations have dims 'blh', no tokens",
    ),
    "last without s": (lambda a: a.last_pool().last_pool(), r"last_pool\(dim='s'\): .*no tokens"),
    "pool without l": (
        lambda a: a.select_layers(1).sum_pool("l"),
        r"sum_pool\(dim='l'\): these activations have dims 'bsh', no layers",
    ),
    "last layer": (lambda a: a.last_pool("l"), r"last_pool\(dim='l'\): pool layers by mean"),
    "unknown axis": (lambda a: a.mean_pool("h"), r"mean_pool\(dim='h'\): dim is 's' .* or 'l'"),
    "cast double": (lambda a: a.cast("float64"), "cast: 'float64' is none of float16"),
    "cast int": (lambda a: a.cast(torch.int32), "cast: 'torch.int32' is none of"),
    "cast nonsense": (lambda a: a.cast("nn"), "cast: 'nn' is none of"),
    "device nonsense": (lambda a: a.to("toaster"), "to: 'toaster' is no device"),
    "device not here": (lambda a: a.to("cuda:77"), "to: cuda:77: this machine has"),
    "empty batches": (lambda a: a.iter_batches(0), "iter_batches: the batch size"),
    "no layers": (lambda a: a.max_pool("l").iter_layers(), "iter_layers: .* no layers"),
    "not in memory": (lambda a: a.tensor, "not in memory"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_done_is_refused_at_once_in_one_line(acts: Acts, what: str) -> None:
    build, message = REFUSALS[what]
    with pytest.raises(UserError, match=message) as refused:
        build(acts)
    assert "\n" not in str(refused.value)


def test_a_slice_beyond_the_end_ends_there(acts: Acts) -> None:
    assert acts.slice_batch(slice(1, 99)).n_documents == 1
    assert acts.slice_batch(slice(7, 99)).n_documents == 0


def test_a_device_is_told_by_its_full_name(acts: Acts) -> None:
    """`cuda` and `cuda:0` are one device; torch says they differ."""
    assert acts.to(torch.device("cpu"))._plan.device == torch.device("cpu")
    if torch.cuda.is_available():
        assert acts.to("cuda")._plan.device == torch.device("cuda", 0)

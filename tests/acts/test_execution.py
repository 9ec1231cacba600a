"""Plans over one source in one pass; pooled in float32 whatever the stored type."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts.description import Ranges, whole
from sdlms.acts.execution import expect, last_rows, mask_of, only_last, wanted_by
from sdlms.acts.handle import Acts, realize_all
from sdlms.acts.plan import Plan, Pool
from sdlms.acts.sources import tensor_source
from sdlms.errors import UserError
from tests.acts.samples import Counting, acts_of, eager_of, file_of, sample


def test_pooling_adds_up_in_float32(tmp_path: Path) -> None:
    """4,000 times 1 + 1/256 in bfloat16: a sum in the stored type would stop at 256."""
    ones = torch.full((1, 1, 4000, 2), 1.0, dtype=torch.bfloat16)
    acts = Acts(ones, "blsh", torch.ones(1, 4000))
    assert acts.sum_pool().realize().tensor.tolist() == [[[4000.0] * 2]]
    assert acts.sum_pool("l").sum_pool().realize().tensor.tolist() == [[4000.0] * 2]
    half = Acts(torch.full((2, 40, 1), 60000.0, dtype=torch.float16), "blh")
    assert half.sum_pool("l").realize().tensor.tolist() == [[2_400_000.0]] * 2
    assert half.mean_pool("l").cast("float16").realize().tensor.tolist() == [[60000.0]] * 2


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda a: a, "layer 3, document b,"),
        (lambda a: a.mean_pool(), "layer 3, document b,"),
        (lambda a: a.select_layers(3).last_pool(), "layer 3, document b,"),
        (lambda a: a.slice_batch([2, 1]).select_layers([3]), "layer 3, document b,"),
        (lambda a: a.max_pool("l"), "layers 1, 3, document b,"),
        (lambda a: a.max_pool("l").mean_pool(), "layers 1, 3, document b,"),
    ],
)
def test_a_value_beyond_float16_is_refused_by_name(
    build: Callable[[Acts], Acts], named: str
) -> None:
    tensor = torch.ones(3, 2, 2, 2)
    tensor[1, 1] = 1e6
    acts = Acts(tensor, "blsh", torch.ones(3, 2), [1, 3], ["a", "b", "c"])
    with pytest.raises(UserError, match=f"cast: a value of {named} is beyond the range of float16"):
        build(acts).cast("float16").realize()
    build(acts).cast("bfloat16").realize()
    build(acts.slice_batch([0, 2, -3])).cast("float16").realize()


def test_infinity_and_nan_pass_through_a_cast() -> None:
    tensor = torch.tensor([[torch.inf, -torch.inf, torch.nan]])
    found = Acts(tensor, "bh").cast("float16").realize().tensor
    torch.testing.assert_close(found.float(), tensor, equal_nan=True)


def test_pools_of_other_layers_and_documents_share_what_they_can(tmp_path: Path) -> None:
    data = sample([3, 4, 5])
    counting = Counting(file_of(tmp_path / "a.h5", data))
    acts = acts_of(counting)
    plans = [
        acts.select_layers(1).mean_pool(),
        acts.select_layers([4, 3]).max_pool("l"),
        acts.last_pool(),
        acts.max_pool("l").mean_pool(),  # whose order is kept
        acts.slice_batch([0, 1, 2]).cast("bfloat16"),  # the same documents, by another name
        acts.slice_batch([2]).mean_pool(),  # others
    ]
    together = realize_all(*plans)
    assert counting.calls.count("scan") == 2
    for one, alone in zip(together, plans, strict=True):
        expected = alone.realize()
        torch.testing.assert_close(
            one.tensor, expected.tensor, rtol=1e-6, atol=1e-6, equal_nan=True
        )
        assert one.layers == expected.layers and one.dtype == expected.dtype


def test_other_sources_do_not_share(tmp_path: Path) -> None:
    one = Counting(file_of(tmp_path / "a.h5", sample([3, 4])))
    other = Counting(file_of(tmp_path / "b.h5", sample([3, 4], seed=1)))
    a, b = realize_all(acts_of(one).sum_pool(), acts_of(other).sum_pool())
    assert one.calls.count("scan") == other.calls.count("scan") == 1
    assert not torch.equal(a.tensor, b.tensor)


@pytest.mark.parametrize("block_tokens", [1, 7, 8192])
def test_last_rows_are_the_last_of_mask_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_tokens: int
) -> None:
    monkeypatch.setattr("sdlms.acts.sources.BLOCK_TOKENS", block_tokens)
    data = sample([4, 0, 9, 1, 6, 2], seed=3)
    source = file_of(tmp_path / "a.h5", data)
    documents = np.array([5, 0, 2, 1, 3, 4, 2])
    found = last_rows(source, whole(source.description, documents))
    masks = eager_of(data).mask
    expected = [max((i for i, m in enumerate(masks[d]) if m), default=None) for d in documents]
    assert found.documents.tolist() == documents.tolist()
    assert found.lengths.tolist() == [int(e is not None) for e in expected]
    assert [f for f, n in zip(found.first, found.lengths, strict=True) if n] == [
        e for e in expected if e is not None
    ]


def test_only_the_last_token_counts_only_when_all_say_so() -> None:
    last, mean = Plan((0,), pools=(Pool("last", "s"),)), Plan((0,), pools=(Pool("mean", "s"),))
    assert only_last([last, last])
    assert not only_last([last, mean])
    assert not only_last([last, Plan((0,))])


def test_what_is_wanted_says_whether_rows_outlive_the_scan() -> None:
    source = tensor_source(torch.zeros(2, 1, 3, 1), "blsh", torch.ones(2, 3))
    pools = {
        (): True,
        (Pool("mean", "s"),): False,
        (Pool("max", "s"), Pool("mean", "l")): False,
        (Pool("mean", "l"),): True,
        (Pool("max", "l"), Pool("mean", "s")): True,
    }
    for one, unpooled in pools.items():
        assert wanted_by(source, [Plan((0,), pools=one)]).unpooled == unpooled


def test_what_is_expected_is_not_read(tmp_path: Path) -> None:
    source = file_of(tmp_path / "a.h5", sample([3, 4]))
    for plan in (acts_of(source).mean_pool(), acts_of(source).last_pool(), acts_of(source)):
        expect(source, plan._plan)
    assert source.bytes_read == 0


def test_the_mask_of_a_result_is_padded(tmp_path: Path) -> None:
    data = sample([3, 0, 5])
    source = file_of(tmp_path / "a.h5", data)
    assert torch.equal(mask_of(source, Plan((1,))), data.padded_mask)
    chosen = Plan((1,), documents=np.array([1, 0]))
    assert torch.equal(mask_of(source, chosen), data.padded_mask[[1, 0], :3])


def test_padding_is_zero_whatever_memory_held(tmp_path: Path) -> None:
    """Blocks of one document each, in memory that was full of NaN before."""
    data = sample([1, 50, 2, 50] * 20, n_units=64)
    acts = acts_of(file_of(tmp_path / "a.h5", data))
    for _ in range(5):
        torch.full((80, 3, 50, 64), torch.nan).mul_(1)
        assert torch.equal(acts.realize().tensor, data.padded)


def test_rows_of_a_layer_that_no_plan_wants_are_not_read(tmp_path: Path) -> None:
    counting = Counting(file_of(tmp_path / "a.h5", sample([3, 4])))
    acts = acts_of(counting)
    realize_all(acts.select_layers(4).mean_pool(), acts.select_layers([4]).last_pool())
    assert {layer for layer, _ in counting.rows_seen} == {4}


def test_ranges_need_not_begin_at_the_first_row() -> None:
    tensor = torch.arange(12.0).view(2, 6, 1)
    source = tensor_source(tensor, "bsh", torch.ones(2, 6))
    ranges = Ranges(np.array([1, 0]), np.array([2, 5]), np.array([3, 1]))
    assert source._rows(0, ranges).flatten().tolist() == [8, 9, 10, 5]

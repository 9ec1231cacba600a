"""What is in memory afterwards knows all that its source knew."""

from pathlib import Path

import pytest
import torch

from sdlms.acts.plan import Plan
from sdlms.acts.realizing import realized
from tests.acts.samples import LAYERS, Counting, acts_of, file_of, sample


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(file_of(tmp_path / "a.h5", sample([3, 0, 5])))


def test_results_come_in_the_order_of_their_plans(counting: Counting) -> None:
    acts = acts_of(counting)
    plans = [acts.slice_batch([0])._plan, acts.mean_pool()._plan, acts.slice_batch([0]).max_pool()]
    found = realized([(counting, plans[0]), (counting, plans[1]), (counting, plans[2]._plan)])
    assert [one.description.dims for one in found] == ["blsh", "blh", "blh"]
    assert [one.description.n_documents for one in found] == [1, 3, 1]
    assert counting.calls.count("scan") == 2  # the first and the last share theirs


def test_nothing_is_made_of_nothing() -> None:
    assert realized([]) == []


def test_model_and_history_are_kept(counting: Counting) -> None:
    acts = acts_of(counting).select_layers([4, 1]).mean_pool().cast("bfloat16")
    (found,) = realized([(counting, acts._plan)])
    header = found.description.header
    assert (header.model, header.revision, header.control, header.gated) == (
        "tiny", "abc", "reinit", True,
    )  # fmt: skip
    assert header.pools == ("mean s",) and header.dims == "blh"
    assert header.store_dtype == {"resid_post": "bfloat16"}
    assert found.description.layers == (4, 1)
    assert found.tensor.dtype == torch.bfloat16 and found.mask_tensor is None


def test_several_layers_are_remembered_when_they_are_pooled(counting: Counting) -> None:
    (found,) = realized([(counting, acts_of(counting).sum_pool("l")._plan)])
    assert found.description.layers == LAYERS == found.description.header.pooled_layers
    assert found.description.dims == "bsh" and found.description.lengths.tolist() == [3, 0, 5]
    again = acts_of(found).mean_pool().realize()
    expected = acts_of(counting).mean_pool().sum_pool("l").realize()
    torch.testing.assert_close(again.tensor, expected.tensor, equal_nan=True)
    assert again.pools == ("sum l", "mean s") and again.layers == LAYERS


def test_a_plan_of_nothing_copies(counting: Counting) -> None:
    (found,) = realized([(counting, Plan(LAYERS))])
    assert torch.equal(found.tensor, sample([3, 0, 5]).padded)
    assert found.mask_tensor is not None
    assert torch.equal(found.mask_tensor, sample([3, 0, 5]).padded_mask)

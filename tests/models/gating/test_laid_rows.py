"""Weights are laid out, swapped and laid back without a bit changed."""

import pytest
import torch
from torch import Tensor

from sdlms.models.architectures import blocks_of
from sdlms.models.gating import laid_rows
from sdlms.models.gating.laid_rows import Rows, Scratch, lay_all_back
from sdlms.models.gating.layouts import Axis, LinearMap
from tests.models.tiny_models import random_model

MAPS = pytest.mark.parametrize(("name", "path"), [("gpt2", "mlp.c_fc"), ("phi", "mlp.fc1")])
AXES = pytest.mark.parametrize("axis", ["inputs", "outputs"])
SCRATCH = Scratch()


def linear_map(name: str, path: str) -> LinearMap:
    return LinearMap(blocks_of(random_model(name))[0], path)


def out_in(linear: LinearMap) -> Tensor:
    weight = linear.weight.detach()
    return (weight if linear.rows == "outputs" else weight.t()).clone()


State = tuple[Tensor, tuple[int, ...], Tensor]


def state(linear: LinearMap) -> State:
    """Weight, where and how it lies, and bias."""
    assert linear.bias is not None
    weight = linear.weight.detach()
    place = (weight.data_ptr(), *weight.stride())
    return weight.clone(), place, linear.bias.detach().clone()


def assert_same(linear: LinearMap, before: State) -> None:
    after = state(linear)
    assert torch.equal(after[0], before[0])
    assert after[1] == before[1]
    assert torch.equal(after[2], before[2])


@MAPS
@AXES
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("part", [1, 300, laid_rows.PART])
def test_rows_are_laid_swapped_and_laid_back(
    name: str, path: str, axis: Axis, copied: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laid_rows, "PART", part)
    linear = linear_map(name, path)
    before, matrix = state(linear), out_in(linear)
    expected = matrix if axis == "outputs" else matrix.t()
    rows = Rows(linear, axis, copied=copied)
    rows.lay_(SCRATCH)
    assert rows.rows.is_contiguous()
    assert torch.equal(rows.rows, expected)
    assert (rows.rows.untyped_storage().data_ptr() == storage(linear)) is not copied
    for seed in (1, 2):
        kept = torch.rand(len(expected), generator=torch.Generator().manual_seed(seed)) < 0.4
        rows.front_(kept)
        n = int(kept.sum())
        assert sorted(rows.rows[:n].tolist()) == sorted(expected[kept].tolist())
        assert sorted(rows.rows[n:].tolist()) == sorted(expected[~kept].tolist())
        if axis == "outputs" and rows.bias is not None:
            together = torch.cat([rows.rows, rows.bias[:, None]], 1)
            assert sorted(together.tolist()) == sorted(
                torch.cat([expected, before[2][:, None]], 1).tolist()
            )
    rows.lay_back(SCRATCH)
    assert_same(linear, before)


def storage(linear: LinearMap) -> int:
    return linear.weight.untyped_storage().data_ptr()


def test_only_misplaced_rows_move() -> None:
    linear = linear_map("phi", "mlp.fc1")
    rows = Rows(linear, "outputs", copied=False)
    rows.lay_(SCRATCH)
    before = rows.rows.clone()
    kept = torch.zeros(40, dtype=torch.bool)
    kept[[0, 1, 39]] = True
    rows.front_(kept)
    moved = (rows.rows != before).any(1).nonzero().flatten().tolist()
    assert moved == [2, 39]


@MAPS
@AXES
@pytest.mark.parametrize("n_writes", [0, 1, 2, 3])
@pytest.mark.parametrize("undoing", [False, True])
def test_a_swap_that_is_interrupted_is_undone(
    name: str,
    path: str,
    axis: Axis,
    n_writes: int,
    undoing: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interrupt comes after so many of the writes to rows and biases, in parts of one pair."""
    monkeypatch.setattr(laid_rows, "PART", 1)
    linear = linear_map(name, path)
    before = state(linear)
    rows = Rows(linear, axis, copied=False)
    rows.lay_(SCRATCH)
    kept = torch.arange(len(rows.rows)) % 3 == 0
    if undoing:
        rows.front_(kept)
    interrupted = Interrupting(n_writes)
    with pytest.raises(KeyboardInterrupt), interrupted:
        rows.restore_() if undoing else rows.front_(kept)
    rows.lay_back(SCRATCH)
    assert_same(linear, before)


class Interrupting(torch.overrides.TorchFunctionMode):
    """Ctrl-C after one of the assignments."""

    def __init__(self, n_writes: int) -> None:
        super().__init__()
        self._left = n_writes

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        found = function(*args, **(kwargs or {}))
        if function is Tensor.__setitem__:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return found


def test_strides_that_are_not_the_usual_ones_come_back() -> None:
    linear = linear_map("phi", "mlp.fc1")
    linear.weight.data = linear.weight.data.t().contiguous().t()
    before = state(linear)
    assert before[1][1:] == (1, 40)
    for axis in ("inputs", "outputs"):
        rows = Rows(linear, axis, copied=False)
        rows.lay_(SCRATCH)
        rows.lay_back(SCRATCH)
        assert_same(linear, before)


@MAPS
def test_weights_are_laid_where_they_lie(name: str, path: str) -> None:
    """Also where that is in the middle of a larger memory, at another dtype."""
    linear = linear_map(name, path)
    weight = linear.weight
    room = torch.arange(weight.numel() + 10, dtype=torch.bfloat16)
    weight.data = room[5:-5].view(weight.shape).copy_(weight)
    before, matrix, value = state(linear), out_in(linear), weight.detach().clone()
    for axis in ("inputs", "outputs"):
        rows = Rows(linear, axis, copied=False)
        rows.lay_(SCRATCH)
        assert torch.equal(rows.rows, matrix if axis == "outputs" else matrix.t())
        assert rows.rows.is_contiguous()
        assert rows.rows.data_ptr() == weight.data_ptr() == before[1][0]
        assert torch.equal(weight, value)
        rows.lay_back(SCRATCH)
        assert_same(linear, before)
    edges = torch.cat([room[:5], room[-5:]])
    expected = torch.cat([torch.arange(5), torch.arange(len(room) - 5, len(room))])
    assert torch.equal(edges, expected.bfloat16())


def test_one_room_serves_all_matrices() -> None:
    scratch = Scratch()
    first = scratch.copy_of(torch.ones(4, 6))
    second = scratch.copy_of(torch.full((2, 5), 2.0, dtype=torch.bfloat16))
    assert first.data_ptr() == second.data_ptr()
    assert second.tolist() == [[2.0] * 5] * 2
    assert scratch.copy_of(torch.full((9, 9), 3.0)).tolist() == [[3.0] * 9] * 9
    with torch.inference_mode():
        scratch.free()
        scratch.copy_of(torch.ones(2, 2))
    assert scratch.copy_of(torch.zeros(2, 2)).tolist() == [[0.0] * 2] * 2


@MAPS
@pytest.mark.parametrize("n_writes", [0, 1, 2, 3])
@pytest.mark.parametrize("back", [False, True])
def test_a_turn_that_is_interrupted_is_undone(
    name: str, path: str, n_writes: int, back: bool
) -> None:
    """The interrupt comes after so many of the copies and the assignment of the weight."""
    linear = linear_map(name, path)
    before = state(linear)
    rows = Rows(linear, "inputs" if linear.rows == "outputs" else "outputs", copied=False)
    if back:
        rows.lay_(SCRATCH)
    interrupting = Turning(n_writes)
    try:
        with interrupting:
            rows.lay_back(SCRATCH) if back else rows.lay_(SCRATCH)
    except KeyboardInterrupt:
        pass
    assert interrupting.n_left < 0 or n_writes == 3
    if not back:
        rows.lay_back(SCRATCH)
    assert_same(linear, before)


class Turning(torch.overrides.TorchFunctionMode):
    """Ctrl-C after one of the writes of a turn."""

    def __init__(self, n_writes: int) -> None:
        super().__init__()
        self.n_left = n_writes

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        found = function(*args, **(kwargs or {}))
        if function in (Tensor.copy_, Tensor.data.__set__):
            self.n_left -= 1
            if self.n_left == -1:
                raise KeyboardInterrupt
        return found


def test_all_are_laid_back_but_one_that_was_replaced() -> None:
    block = blocks_of(random_model("phi"))[0]
    linears = [LinearMap(block, path) for path in ("mlp.fc1", "mlp.fc2")]
    befores = [state(linear) for linear in linears]
    laid = [Rows(linear, "inputs", copied=False) for linear in linears]
    for rows in laid:
        rows.lay_(SCRATCH)
        rows.front_(torch.arange(len(rows.rows)) % 2 == 1)
    other = torch.zeros_like(linears[1].weight)
    linears[1].weight.data = other
    with pytest.raises(ValueError, match=r"\[16, 40\] was replaced while it was gated"):
        lay_all_back(laid, SCRATCH)
    assert laid == []
    assert_same(linears[0], befores[0])
    assert linears[1].weight.data_ptr() == other.data_ptr()


def test_a_copy_leaves_the_weight_alone() -> None:
    linear = linear_map("phi", "mlp.fc1")
    before = state(linear)
    for axis in ("inputs", "outputs"):
        rows = Rows(linear, axis, copied=True)
        rows.lay_(SCRATCH)
        rows.front_(torch.arange(len(rows.rows)) % 2 == 1)
        assert_same(linear, before)
        assert rows.rows.is_contiguous()
        rows.lay_back(SCRATCH)
        assert_same(linear, before)

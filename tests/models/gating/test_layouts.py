"""Weights are laid out, swapped and laid back without a bit changed."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, blocks_of
from sdlms.models.gating.layouts import Axis, LinearMap, Rows, mlps_of
from tests.models.tiny_models import EVERY_CASE, random_model

MAPS = pytest.mark.parametrize(("name", "path"), [("gpt2", "mlp.c_fc"), ("phi", "mlp.fc1")])
AXES = pytest.mark.parametrize("axis", ["inputs", "outputs"])


def linear_map(name: str, path: str) -> LinearMap:
    return LinearMap(blocks_of(random_model(name))[0], path)


def out_in(linear: LinearMap) -> Tensor:
    weight = linear.weight.detach()
    return (weight if linear.rows == "outputs" else weight.t()).clone()


def state(linear: LinearMap) -> tuple[Tensor, tuple[int, ...], Tensor]:
    assert linear.bias is not None
    weight = linear.weight.detach()
    return weight.clone(), weight.stride(), linear.bias.detach().clone()


def assert_same(linear: LinearMap, before: tuple[Tensor, tuple[int, ...], Tensor]) -> None:
    after = state(linear)
    assert torch.equal(after[0], before[0])
    assert after[1] == before[1]
    assert torch.equal(after[2], before[2])


@MAPS
@AXES
@pytest.mark.parametrize("copied", [False, True])
def test_rows_are_laid_swapped_and_laid_back(
    name: str, path: str, axis: Axis, copied: bool
) -> None:
    linear = linear_map(name, path)
    before, matrix = state(linear), out_in(linear)
    expected = matrix if axis == "outputs" else matrix.t()
    rows = Rows(linear, axis, copied=copied)
    rows.lay_()
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
    rows.lay_back()
    assert_same(linear, before)


def storage(linear: LinearMap) -> int:
    return linear.weight.untyped_storage().data_ptr()


def test_only_misplaced_rows_move() -> None:
    linear = linear_map("phi", "mlp.fc1")
    rows = Rows(linear, "outputs", copied=False)
    rows.lay_()
    before = rows.rows.clone()
    kept = torch.zeros(40, dtype=torch.bool)
    kept[[0, 1, 39]] = True
    rows.front_(kept)
    moved = (rows.rows != before).any(1).nonzero().flatten().tolist()
    assert moved == [2, 39]


@MAPS
@AXES
@pytest.mark.parametrize("n_writes", [0, 1])
@pytest.mark.parametrize("undoing", [False, True])
def test_a_swap_that_is_interrupted_is_undone(
    name: str, path: str, axis: Axis, n_writes: int, undoing: bool
) -> None:
    """The interrupt comes after so many of the writes to rows and biases."""
    linear = linear_map(name, path)
    before = state(linear)
    rows = Rows(linear, axis, copied=False)
    rows.lay_()
    kept = torch.arange(len(rows.rows)) % 3 == 0
    if undoing:
        rows.front_(kept)
    interrupted = Interrupting(n_writes)
    with pytest.raises(KeyboardInterrupt), interrupted:
        rows.restore_() if undoing else rows.front_(kept)
    rows.lay_back()
    assert_same(linear, before)


class Interrupting(torch.overrides.TorchFunctionMode):
    """Ctrl-C in the place of one assignment."""

    def __init__(self, n_writes: int) -> None:
        super().__init__()
        self._left = n_writes

    def __torch_function__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        if function is Tensor.__setitem__:
            if not self._left:
                function(*args, **(kwargs or {}))
                raise KeyboardInterrupt
            self._left -= 1
            if args[0].dim() == 2 and not _has_bias(args[0]):
                function(*args, **(kwargs or {}))
                raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


def _has_bias(rows: Tensor) -> bool:
    """Rows that are outputs are written before their biases: 40 or 64 of them."""
    return len(rows) > 16


def test_strides_that_are_not_the_usual_ones_come_back() -> None:
    linear = linear_map("phi", "mlp.fc1")
    linear.weight.data = linear.weight.data.t().contiguous().t()
    before = state(linear)
    assert before[1] == (1, 40)
    for axis in ("inputs", "outputs"):
        rows = Rows(linear, axis, copied=False)
        rows.lay_()
        rows.lay_back()
        assert_same(linear, before)


@EVERY_CASE
def test_the_maps_into_and_from_the_neurons_are_found(name: str) -> None:
    model = random_model(name)
    architecture = architecture_for(model.config)
    for mlp in mlps_of(model, None):
        assert len(mlp.ups) == 1 + architecture.gated
        for up in mlp.ups:
            assert (up.n_inputs, up.n_outputs) == (mlp.down.n_outputs, mlp.down.n_inputs)


def test_layers_are_chosen_and_checked() -> None:
    model = random_model("llama")
    assert [mlp.layer for mlp in mlps_of(model, (2, 0, 2))] == [0, 2]
    for layers in ((3,), (-1, 0), ()):
        with pytest.raises(ValueError, match="do not exist; the model has 0 to 2"):
            mlps_of(model, layers)


def phi() -> PreTrainedModel:
    return random_model("phi", AutoModelForCausalLM)


def quantised_(model: PreTrainedModel) -> None:
    class Linear4bit(nn.Linear):
        pass

    model.model.layers[1].mlp.fc2 = Linear4bit(40, 16)


def eight_bit_(model: PreTrainedModel) -> None:
    weight = model.model.layers[1].mlp.fc2.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.float8_e4m3fn)


def offloaded_(model: PreTrainedModel) -> None:
    model.model.layers[1].mlp.fc2.to("meta")


def shared_(model: PreTrainedModel) -> None:
    layers = model.model.layers
    layers[1].mlp.fc2.weight = layers[0].mlp.fc2.weight


def view_(model: PreTrainedModel) -> None:
    layers = model.model.layers
    layers[1].mlp.fc1.weight.data = layers[0].mlp.fc2.weight.data.t()


@pytest.mark.parametrize(
    ("spoil_", "message"),
    [
        (quantised_, r"layer 1: its MLP's mlp.fc2 is a Linear4bit; rules know Linear and Conv1D"),
        (eight_bit_, r"layer 1: its MLP's mlp.fc2 holds float8_e4m3fn; rules know floats"),
        (offloaded_, r"layer 1: its MLP's mlp.fc2 is not in memory \(device meta\)"),
        (shared_, r"layer 0: its MLP's mlp.fc2 shares its weight with another part"),
        (view_, r"layer 0: its MLP's mlp.fc2 shares its weight with another part"),
    ],
)
def test_weights_that_cannot_be_laid_out_are_refused(spoil_, message: str) -> None:  # noqa: ANN001
    model = phi()
    spoil_(model)
    with pytest.raises(UserError, match=message) as found:
        mlps_of(model, None)
    assert "\n" not in str(found.value)

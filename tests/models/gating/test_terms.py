"""What a context decides once for all its layers."""

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models.gating.layouts import mlps_of
from sdlms.models.gating.terms import (
    Backends,
    GatedMlp,
    How,
    Terms,
    masked_product,
    rows_joined,
    rows_of,
)
from tests.models.tiny_models import random_model


def gated_mlp(how: How, name: str = "phi") -> GatedMlp:
    mlp = mlps_of(random_model(name), (0,))[0]
    return GatedMlp(mlp, Terms("post-norm", how, None, Backends("torch")))


def test_a_backend_is_made_once_for_a_dtype() -> None:
    backends, weight = Backends("torch"), torch.ones(2, 2)
    assert backends.of(weight) is backends.of(weight + 1)
    assert backends.of(weight) is not backends.of(weight.bfloat16())


def test_a_kernel_that_cannot_be_is_refused_or_left_out() -> None:
    weight = torch.ones(2, 2, dtype=torch.float64)
    assert Backends("auto").of(weight).name == "torch"
    with pytest.raises(UserError, match="--backend compiled"):
        Backends("compiled").of(weight)


def test_one_row_is_what_auto_does_sparsely() -> None:
    one, many = torch.ones(1, 1, 16), torch.ones(1, 3, 16)
    auto = gated_mlp(How())
    with torch.no_grad():
        assert auto.singly(one, 16)
        assert auto.singly(one.clone().requires_grad_(), 16)
        assert not auto.singly(many, 16)
        assert not auto.singly(one.bfloat16(), 16)
        assert gated_mlp(How(execution="sparse")).singly(many, 16)
        assert not gated_mlp(How(execution="masked")).singly(one, 16)


def test_a_call_with_gradients_is_not_sparse() -> None:
    """Whether the input, or any weight or bias of the layer, is to have some."""
    one = torch.ones(1, 1, 16)
    auto, sparse = gated_mlp(How()), gated_mlp(How(execution="sparse"))
    for layer in (auto, sparse):
        layer.mlp.block.requires_grad_(False)
    assert auto.singly(one, 16)
    assert sparse.singly(one, 16)
    trained = one.clone().requires_grad_()
    assert not auto.singly(trained, 16)
    with pytest.raises(ValueError, match="has no gradients here"):
        sparse.singly(trained, 16)
    for linear in auto.mlp.maps:
        for parameter in (linear.weight, linear.bias):
            assert parameter is not None
            parameter.requires_grad_(True)
            assert not auto.singly(one, 16)
            parameter.requires_grad_(False)
    assert auto.singly(one, 16)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_rows_are_contiguous(n_rows: int) -> None:
    x = torch.randn(1, n_rows, 4, 2, generator=torch.Generator().manual_seed(0))[..., 1]
    rows = rows_of(x, 4)
    assert len(rows) == n_rows
    assert all(row.is_contiguous() for row in rows)
    assert torch.equal(rows_joined(rows, x), x)


def test_flat_tokens_take_their_shape_from_the_block() -> None:
    layer = gated_mlp(How())
    assert layer.shape_of(torch.ones(2, 3, 5)) == (2, 3)
    with pytest.raises(ValueError, match="outside its block"):
        layer.shape_of(torch.ones(6, 5))
    layer.see_shape(torch.Size([2, 3]))
    assert layer.shape_of(torch.ones(6, 5)) == (2, 3)


@pytest.mark.parametrize("name", ["phi", "gpt2"])
def test_a_masked_product_leaves_inputs_out(name: str) -> None:
    down = mlps_of(random_model(name), (0,))[0].down
    x = torch.randn(2, 3, down.n_inputs, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] = torch.inf  # times 0 it would be NaN
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0, 0, 0] = False
    weight = down.weight if down.rows == "inputs" else down.weight.t()
    with torch.no_grad():
        expected = x.where(mask, 0) @ weight + down.bias
        found = masked_product(down, x, mask.flatten(0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

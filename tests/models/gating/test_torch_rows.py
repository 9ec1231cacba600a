"""What only the torch backend has: every float type, batches of scores, other devices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.models.gating.torch_rows import Torch, largest_of, scores_of

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(FLOATS, min_size=1, max_size=30), st.data())
def test_largest_are_those_of_a_stable_sort(values: list[float], data: st.DataObject) -> None:
    x = torch.tensor(values)
    keep = data.draw(st.integers(1, len(values)))
    scores = x.abs()
    expected = scores.argsort(descending=True, stable=True)[:keep]
    assert largest_of(x, None, keep).sort().values.tolist() == sorted(expected.tolist())


def test_rows_of_a_batch_are_chosen_alone() -> None:
    x, weights = torch.randn(3, 4, 50), torch.rand(50)
    together = largest_of(x, weights, 7)
    for i in range(3):
        for j in range(4):
            alone = largest_of(x[i, j], weights, 7)
            assert torch.equal(together[i, j].sort().values, alone.sort().values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_are_float32(dtype: torch.dtype) -> None:
    x, weights = torch.randn(20).to(dtype), torch.rand(20)
    if dtype != torch.float64:
        assert torch.equal(scores_of(x, weights), x.float().abs() * weights)
    assert scores_of(x, None).dtype == torch.float32


def test_half_precision() -> None:
    rows, x = torch.randn(200, 40).half(), torch.randn(200).half()
    kept = x.abs().float().argsort(descending=True, stable=True)[:60]
    expected = x[kept].double() @ rows[kept].double()
    found = Torch().largest(rows, None, x, None, 60).double()
    assert float((found - expected).abs().max()) < 0.05
    assert torch.equal(Torch().dense(rows.t(), None, x), x @ rows)


def test_no_gradient_flows() -> None:
    rows = torch.randn(20, 5, requires_grad=True)
    assert not Torch().largest(rows, None, torch.randn(20), None, 3).requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rows, x, weights = torch.randn(500, 96), torch.randn(500), torch.rand(500)
    rows, x = rows.to(dtype), x.to(dtype)
    bias = torch.randn(96).to(dtype)
    kept = scores_of(x, weights).argsort(descending=True, stable=True)[:150]
    expected = x[kept].double() @ rows[kept].double() + bias.double()
    on_gpu = [tensor.cuda() for tensor in (rows, bias, x, weights)]
    found = Torch().largest(*on_gpu, 150).cpu().double()
    assert float((found - expected).abs().max()) < {torch.float32: 1e-4}.get(dtype, 0.5)
    least = float(scores_of(x, weights)[kept[-1]])
    _, n_kept = Torch().above(*on_gpu, least)
    assert n_kept == int((scores_of(x, weights) > least).sum())

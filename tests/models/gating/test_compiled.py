"""What only the compiled kernel has: checks before addresses are read, threads, alignment."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdlms.models.gating.compiled import Compiled
from sdlms.models.kernels.building import NoKernelError

ROWS, X, WEIGHTS = torch.randn(50, 20), torch.randn(50), torch.rand(50)


def test_half_precision_is_not_known() -> None:
    with pytest.raises(NoKernelError, match="not float16"):
        Compiled(torch.float16)


@pytest.mark.parametrize(
    "call",
    [
        lambda k: k.dense(ROWS.t(), None, X),
        lambda k: k.dense(ROWS.double(), None, X[:20]),
        lambda k: k.dense(ROWS, None, X),
        lambda k: k.dense(ROWS, X[:49], X[:20]),
        lambda k: k.dense(ROWS, None, X[:20].bfloat16()),
        lambda k: k.largest(ROWS[:, :19], None, X, None, 5),
        lambda k: k.largest(ROWS, X, X, None, 5),
        lambda k: k.largest(ROWS, None, X, WEIGHTS[:49], 5),
        lambda k: k.largest(ROWS, None, X, WEIGHTS.double(), 5),
        lambda k: k.largest(ROWS, None, torch.randn(100)[::2], None, 5),
        lambda k: k.largest(ROWS, None, X[None], None, 5),
        lambda k: k.above(ROWS, None, X, WEIGHTS.to("meta"), 0.5),
        lambda k: k.listed(ROWS, None, X, torch.tensor([0, 50])),
        lambda k: k.listed(ROWS, None, X, torch.tensor([-1])),
        lambda k: k.listed(ROWS, None, X, torch.tensor([1], dtype=torch.int32)),
        lambda k: k.listed(ROWS, None, X, torch.tensor([[1]])),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[Compiled], Tensor]) -> None:
    with pytest.raises(ValueError):
        call(Compiled(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", range(1, 8))
def test_any_alignment(dtype: torch.dtype, offset: int) -> None:
    """Views into the middle of a storage: models are loaded that way."""
    kernel, values = Compiled(dtype), torch.randn(40 * 48 + 8).to(dtype)
    rows = values[offset : offset + 40 * 48].view(40, 48)
    x = torch.randn(40 + offset).to(dtype)[offset:]
    again = rows.clone()
    assert torch.equal(
        kernel.largest(rows, None, x, None, 9), kernel.largest(again, None, x, None, 9)
    )
    short = torch.randn(48 + offset).to(dtype)[offset:]
    assert torch.equal(kernel.dense(rows, None, short), kernel.dense(again, None, short.clone()))


def test_bfloat16_is_rounded_once() -> None:
    """Sums are float32: the result is that of float64 to a unit in the last place."""
    kernel = Compiled(torch.bfloat16)
    rows, x = torch.randn(400, 100).bfloat16(), torch.randn(400).bfloat16()
    exact = x.double() @ rows.double()
    unit = 2.0 ** (exact.abs().log2().floor() - 7)
    found = kernel.largest(rows, None, x, None, 400).double()
    assert bool(((found - exact).abs() <= 0.51 * unit + 1e-5).all())
    found = kernel.dense(rows.t().contiguous(), None, x).double()
    assert bool(((found - exact).abs() <= 0.51 * unit + 1e-5).all())


def test_denormal_numbers_are_kept() -> None:
    """The library must not switch the process to flushing them."""
    kernel = Compiled(torch.float32)
    x = torch.full((16,), 1e-40)
    assert torch.equal(kernel.largest(torch.eye(16), None, x, None, 16), x)
    assert float(torch.tensor(1e-40) * 1.0) > 0


def test_called_from_several_python_threads() -> None:
    kernel, wrong = Compiled(torch.float32), []
    cases = [(torch.randn(300, 64 + i), torch.randn(300)) for i in range(4)]

    def work(rows: Tensor, x: Tensor) -> None:
        kept = x.abs().topk(90).indices
        expected = x[kept] @ rows[kept]
        for _ in range(200):
            found = kernel.largest(rows, None, x, None, 90)
            if not torch.allclose(found, expected, atol=1e-4):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=case) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_inputs_are_not_written_to() -> None:
    kernel = Compiled(torch.float32)
    tensors = [ROWS, X, WEIGHTS]
    before = [tensor.clone() for tensor in tensors]
    kernel.largest(ROWS, None, X, WEIGHTS, 20)
    kernel.above(ROWS, None, X, WEIGHTS, 0.1)
    assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_the_same_for_any_number_of_threads(dtype: torch.dtype) -> None:
    kernel, generator = Compiled(dtype), torch.Generator().manual_seed(3)
    rows = torch.randn(2048, 515, generator=generator).to(dtype)
    weight = torch.randn(1031, 2048, generator=generator).to(dtype)
    x = torch.randn(2048, generator=generator).to(dtype)
    found = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            own = kernel.largest(rows, None, x, None, 2000), kernel.dense(weight, None, x)
            found.append(torch.cat(own))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])

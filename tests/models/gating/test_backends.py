"""Both backends against plain torch in float64, on the same sets, down to the odd shapes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.models.gating.backends import Backend, BackendName, backend_of
from sdlms.models.kernels.building import kernel

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16]
# Shares of the sum of magnitudes: a rounding of partial sums, of their sum, and with the bias.
ERRORS = {torch.float32: 1e-6, torch.bfloat16: 3 * 2**-8}
ROWS, COLUMNS = (1, 2, 17, 100, 513), (1, 15, 16, 31, 64, 257)
Both = tuple[Backend, Backend]


def never(reason: str) -> None:
    raise AssertionError(reason)


@pytest.fixture(params=[1, 2, 3])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["torch", "compiled"])
def name(request: pytest.FixtureRequest) -> BackendName:
    """A kernel that cannot be built where there is a compiler is a failure, and no skip."""
    found: BackendName = request.param
    return found


def make(name: BackendName, dtype: torch.dtype) -> Backend:
    return backend_of(name, dtype, CPU, never)


class Case:
    """Random numbers of one shape, and what the products should be."""

    def __init__(self, n_rows: int, n_columns: int, dtype: torch.dtype, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed + 1000 * n_rows + n_columns)
        self.rows = torch.randn(n_rows, n_columns, generator=generator).to(dtype)
        self.x = torch.randn(n_rows, generator=generator).to(dtype)
        self.bias = torch.randn(n_columns, generator=generator).to(dtype)
        self.weights = torch.rand(n_rows, generator=generator)

    def check(self, found: Tensor, kept: Tensor) -> None:
        """`found` is the product with the rows that `kept` lists."""
        x, rows = self.x[kept].double(), self.rows[kept].double()
        size = x.abs() @ rows.abs() + self.bias.double().abs()
        assert found.dtype == self.rows.dtype and found.shape == self.bias.shape
        error = (found.double() - x @ rows - self.bias.double()).abs()
        assert bool((error <= ERRORS[found.dtype] * size).all())


def kept_of(x: Tensor, weights: Tensor | None, keep: int) -> Tensor:
    """By sorting scores: the first of equal ones, NaN above all."""
    scores = x.float().abs() * (torch.ones(len(x)) if weights is None else weights)
    return scores.argsort(descending=True, stable=True)[:keep]


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_all_shapes(name: BackendName, dtype: torch.dtype, n_threads: int) -> None:
    """The last one is large enough for all threads."""
    backend = make(name, dtype)
    for n_rows in (*ROWS, 2000):
        for n_columns in COLUMNS if n_rows < 2000 else (1029,):
            case = Case(n_rows, n_columns, dtype)
            rows, bias, x, weights = case.rows, case.bias, case.x, case.weights
            every = torch.arange(n_rows)
            case.check(backend.dense(rows.t().contiguous(), bias, x), every)
            case.check(backend.listed(rows, bias, x, every.flip(0)), every)
            for keep in {1, max(1, n_rows // 3), n_rows}:
                kept = kept_of(x, weights, keep)
                case.check(backend.largest(rows, bias, x, weights, keep), kept)
                case.check(backend.listed(rows, bias, x, kept), kept)
                scores = x.float().abs() * weights
                least = float(scores[kept[-1]])
                found, n_kept = backend.above(rows, bias, x, weights, least)
                assert n_kept == int((scores > least).sum())
                case.check(found, (scores > least).nonzero().view(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_bias_and_weights(name: BackendName, dtype: torch.dtype) -> None:
    case = Case(100, 33, dtype)
    backend, kept = make(name, dtype), kept_of(case.x, None, 30)
    case.bias = torch.zeros(33, dtype=dtype)
    case.check(backend.largest(case.rows, None, case.x, None, 30), kept)
    case.check(backend.listed(case.rows, None, case.x, kept), kept)
    case.check(backend.dense(case.rows.t().contiguous(), None, case.x), torch.arange(100))
    found, n_kept = backend.above(case.rows, None, case.x, None, 0.5)
    assert n_kept == int((case.x.abs() > 0.5).sum())
    case.check(found, (case.x.abs() > 0.5).nonzero().view(-1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kept_set_is_exact(name: BackendName, dtype: torch.dtype, n_threads: int) -> None:
    """Rows of the unit matrix show which were kept; few distinct values give many ties."""
    backend, n = make(name, dtype), 300
    rows = torch.eye(n, dtype=dtype)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(1, 2 + seed, (n,), generator=generator).to(dtype)
        weights = torch.randint(1, 3, (n,), generator=generator).float()
        for keep in (1, 2, 99, 299, 300):
            for scale in (None, weights):
                found = backend.largest(rows, None, x, scale, keep).nonzero().view(-1)
                assert torch.equal(found, kept_of(x, scale, keep).sort().values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, -1.0, 3e38])
def test_all_scores_equal(name: BackendName, dtype: torch.dtype, value: float) -> None:
    backend, n = make(name, dtype), 70
    rows, x = torch.eye(n, dtype=dtype), torch.full((n,), value, dtype=dtype)
    for keep in (1, 35, 70):
        expected = torch.where(torch.arange(n) < keep, x, torch.zeros(()).to(dtype))
        assert torch.equal(backend.largest(rows, None, x, None, keep), expected)
    assert backend.above(rows, None, x, None, float(x[0].abs()))[1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinity_and_nan_reach_the_output(name: BackendName, dtype: torch.dtype) -> None:
    backend, case = make(name, dtype), Case(90, 40, dtype)
    x = case.x.clone()
    for value in (float("nan"), float("inf"), float("-inf")):
        x[17] = value
        outputs = [
            backend.dense(case.rows.t().contiguous(), None, x),
            backend.largest(case.rows, None, x, case.weights, 1),
            backend.largest(case.rows, None, x, None, 90),
            backend.above(case.rows, None, x, case.weights, 2.5)[0],
        ]
        assert all(not bool(out.isfinite().any()) for out in outputs)
    zero = torch.zeros(90)  # infinity times a weight of 0 is NaN, too
    assert not bool(backend.largest(case.rows, None, x, zero, 1).isfinite().any())
    all_nan = torch.full_like(x, float("nan"))
    assert bool(backend.largest(case.rows, None, all_nan, None, 45).isnan().all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_above(name: BackendName, dtype: torch.dtype) -> None:
    backend, case = make(name, dtype), Case(50, 20, dtype)
    found, n_kept = backend.above(case.rows, case.bias, case.x, case.weights, 1e9)
    assert n_kept == 0 and torch.equal(found, case.bias)
    empty = torch.empty(0, dtype=torch.int64)
    assert torch.equal(backend.listed(case.rows, None, case.x, empty), torch.zeros_like(case.bias))
    assert backend.above(case.rows, case.bias, case.x, case.weights, -1.0)[1] == 50


@pytest.mark.parametrize("dtype", DTYPES)
def test_twice_the_same(name: BackendName, dtype: torch.dtype, n_threads: int) -> None:
    backend, case = make(name, dtype), Case(2000, 1029, dtype)
    first = backend.largest(case.rows, case.bias, case.x, case.weights, 1700)
    for _ in range(5):
        again = backend.largest(case.rows, case.bias, case.x, case.weights, 1700)
        assert torch.equal(first, again)


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends_agree_on_gelu(dtype: torch.dtype, n_threads: int) -> None:
    plain, compiled = make("torch", dtype), make("compiled", dtype)
    for seed in range(3):
        case = Case(1000, 1030, dtype, seed)
        case.x = torch.nn.functional.gelu(case.x)
        for keep in (100, 300, 900):
            kept = kept_of(case.x, case.weights, keep)
            for backend in (plain, compiled):
                arguments = (case.rows, case.bias, case.x, case.weights)
                case.check(backend.largest(*arguments, keep), kept)


@pytest.mark.parametrize(
    "call",
    [
        lambda b, c: b.largest(c.rows, c.bias, c.x, c.weights, 0),
        lambda b, c: b.largest(c.rows, c.bias, c.x, c.weights, 51),
        lambda b, c: b.largest(c.rows, c.bias, c.x[:-1], c.weights, 3),
        lambda b, c: b.above(c.rows, c.bias, c.x[:-1], None, 0.1),
        lambda b, c: b.listed(c.rows, c.bias, c.x[:-1], torch.tensor([1])),
    ],
)
def test_what_does_not_fit(name: BackendName, call: Callable[[Backend, Case], Tensor]) -> None:
    with pytest.raises(ValueError):
        call(make(name, torch.float32), Case(50, 20, torch.float32))


def test_auto_takes_the_kernel_where_it_can() -> None:
    assert backend_of("auto", torch.float32, CPU, never).name == "compiled"
    assert backend_of("torch", torch.float32, CPU, never).name == "torch"


@pytest.mark.parametrize(
    ("dtype", "device", "reason"),
    [
        (torch.float16, "cpu", "the kernel knows float32 and bfloat16, not float16"),
        (torch.float32, "cuda", "the kernel runs on the CPU, the model on cuda"),
    ],
)
def test_why_auto_is_torch(dtype: torch.dtype, device: str, reason: str) -> None:
    told: list[str] = []
    assert backend_of("auto", dtype, torch.device(device), told.append).name == "torch"
    assert told == [reason]
    with pytest.raises(UserError, match=reason):
        backend_of("compiled", dtype, torch.device(device), never)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    kernel.cache_clear()
    told: list[str] = []
    assert backend_of("auto", torch.float32, CPU, told.append).name == "torch"
    assert told == [f"{tmp_path}/none cannot be run (No such file or directory)"]
    with pytest.raises(UserError, match=r"--backend compiled: .*sdlms\[kernels\].*--backend auto"):
        backend_of("compiled", torch.float32, CPU, never)

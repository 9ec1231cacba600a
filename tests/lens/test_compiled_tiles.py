"""The kernel's passes are torch's, for any shape, with NaN and infinities, on any threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from sdlms.lens.compiled_tiles import MOST_COLUMNS, CompiledTiles
from sdlms.lens.measuring import Lens
from sdlms.lens.rounded import RoundedProduct, RoundedWeights
from sdlms.lens.sweeping import TILE_NUMBERS, Swept, logits_at, rows_at_once
from sdlms.lens.torch_tiles import TorchTiles
from sdlms.models.kernels.building import NoKernelError
from tests.lens.heads import head_model, related_states

TORCH = TorchTiles()
SHAPES = [(1, 1, 1), (1, 1, 33), (1, 5, 200), (3, 2, 2049), (7, 1, 5000), (19, 13, 5003)]


@pytest.fixture(scope="module")
def compiled() -> CompiledTiles:
    """A kernel that cannot be built where there is a compiler is a failure, and no skip."""
    return CompiledTiles(torch.float32)


@pytest.fixture(params=[1, 2, 3])
def n_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def product_of(logits: Tensor, step: float = 0.0) -> RoundedProduct:
    """bfloat16 logits `[tile, row, column]` as a product, by a matrix of ones and zeros."""
    n_tiles, n_rows, _ = logits.shape
    inputs = torch.eye(n_rows).bfloat16().expand(n_tiles, -1, -1)
    steps = step * torch.arange(n_tiles)
    return RoundedProduct(inputs, logits.bfloat16().mT, torch.zeros(n_rows), steps)


def random_product(n_rows: int, d_vocab: int, scale: float = 3.0) -> RoundedProduct:
    generator = torch.Generator().manual_seed(n_rows + d_vocab)
    weight = torch.randn(d_vocab, 24, generator=generator) * scale / 24**0.5
    inputs = torch.randn(n_rows, 24, generator=generator)
    return RoundedWeights(weight, torch.randn(d_vocab)).product(inputs, TORCH)


def assert_same_sweep(found: tuple[Swept, Tensor], expected: tuple[Swept, Tensor]) -> None:
    equal = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(found[0].logits, expected[0].logits, **equal)
    torch.testing.assert_close(found[0].maxima, expected[0].maxima, **equal)
    torch.testing.assert_close(found[1], expected[1], **equal)
    for one, other in zip(found[0].sums, expected[0].sums, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-6, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("n_tokens", "n_states", "d_vocab"), SHAPES)
@pytest.mark.parametrize("n_asked", [0, 1, 3])
def test_a_sweep_is_torchs(
    compiled: CompiledTiles, n_tokens: int, n_states: int, d_vocab: int, n_asked: int
) -> None:
    product = random_product(n_tokens * n_states, d_vocab)
    asked = torch.randn(n_tokens * n_states, n_asked) * 3 - 5
    found = (backend.sweep(product, asked, n_states) for backend in (compiled, TORCH))
    assert_same_sweep(next(found), next(found))


@pytest.mark.parametrize("scale", [0.0, 0.01, 3.0, 40.0, 1e4])
def test_sums_are_those_of_float64(compiled: CompiledTiles, scale: float) -> None:
    logits = (torch.randn(2, 6, 512) * scale - 5).bfloat16()
    sums = compiled.sweep(product_of(logits), torch.zeros(6, 0), 3)[0].sums
    exact = logits.double().transpose(0, 1).flatten(1).view(2, 3, -1)
    probabilities = exact.softmax(-1)
    tight = {"rtol": 1e-6, "atol": 2e-6 * max(1.0, float(exact.abs().max()))}
    torch.testing.assert_close(sums.normalizer, exact.logsumexp(-1), **tight)
    torch.testing.assert_close(sums.expected, (probabilities * exact).sum(-1), **tight)
    crossed = (probabilities[:, -1:] * exact).sum(-1)
    torch.testing.assert_close(sums.crossed, crossed, **tight)


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf, 1e30, -1e30])
@pytest.mark.parametrize("row", [1, 2])
def test_what_is_not_finite_is_where_torch_has_it(
    compiled: CompiledTiles, value: float, row: int
) -> None:
    """In a state, and in a final one; in one place, and in a whole tile."""
    logits = torch.randn(3, 6, 128).bfloat16()
    kept = compiled.sweep(product_of(logits), torch.zeros(6, 1), 3)[0]
    for columns in (slice(77, 78), slice(None)):
        damaged = logits.clone()
        damaged[1, row, columns] = value
        product, asked = Kept(damaged), torch.zeros(6, 1)
        found = [backend.sweep(product, asked, 3) for backend in (compiled, TORCH)]
        assert_same_sweep(*found)
        if value != value or value == torch.inf:
            assert found[0][0].sums.normalizer.view(-1)[row].isnan()
        others = [place for place in range(6) if place != row]
        assert torch.equal(found[0][0].maxima[others], kept.maxima[others])
        values = [backend.largest(found[0][0], torch.arange(6), 9) for backend in (compiled, TORCH)]
        torch.testing.assert_close(values[0][0], values[1][0], rtol=0, atol=0, equal_nan=True)


class Kept(RoundedProduct):
    """Logits that are there already: a product with what is not finite would spread it."""

    def __new__(cls, logits: Tensor) -> "Kept":
        n_tiles, n_rows, width = logits.shape
        shape = torch.empty(1, n_rows, 1), torch.empty(n_tiles, width, 1)
        found = super().__new__(cls, *shape, torch.zeros(n_rows), torch.zeros(n_tiles))
        found.logits = logits
        return found

    logits: Tensor

    def multiply_(self, out: Tensor, tile: int) -> None:
        out.copy_(self.logits[tile])


@pytest.mark.parametrize(("n_rows", "d_vocab"), [(1, 1), (1, 33), (4, 200), (11, 5003)])
def test_the_largest_are_torchs(compiled: CompiledTiles, n_rows: int, d_vocab: int) -> None:
    swept, _ = TORCH.sweep(random_product(n_rows, d_vocab), torch.zeros(n_rows, 0), 1)
    rows = torch.randperm(n_rows)[: max(1, n_rows - 2)]
    for n_top in {1, min(7, d_vocab), min(64, d_vocab), min(500, d_vocab), d_vocab}:
        values, columns = compiled.largest(swept, rows, n_top)
        expected, _ = TORCH.largest(swept, rows, n_top)
        assert torch.equal(values, expected)
        everywhere = torch.zeros(n_rows, n_top, dtype=torch.int64)
        everywhere[rows] = columns
        assert torch.equal(logits_at(swept, everywhere)[rows], values)
        assert all(len(set(row.tolist())) == n_top for row in columns)


def test_of_equal_logits_the_first_are_taken(compiled: CompiledTiles) -> None:
    swept, _ = compiled.sweep(product_of(torch.zeros(2, 1, 96)), torch.zeros(1, 0), 1)
    values, columns = compiled.largest(swept, torch.tensor([0]), 40)
    assert torch.equal(columns, torch.arange(40)[None]) and torch.equal(values, torch.zeros(1, 40))
    ties = torch.randint(0, 3, (3, 5, 160)).float()
    swept, _ = compiled.sweep(product_of(ties, 0.5), torch.zeros(5, 0), 1)
    values, columns = compiled.largest(swept, torch.arange(5), 77)
    assert torch.equal(values, TORCH.largest(swept, torch.arange(5), 77)[0])
    same = values[:, 1:] == values[:, :-1]
    assert bool((columns[:, 1:] > columns[:, :-1])[same].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_inputs", [1, 15, 16, 33, 64, 130, 768])
@pytest.mark.parametrize("n_states", [1, 3])
def test_dots_are_those_of_float64(
    compiled: CompiledTiles, dtype: torch.dtype, n_inputs: int, n_states: int
) -> None:
    weight, inputs = torch.randn(70, n_inputs).to(dtype), torch.randn(5, n_states, n_inputs)
    ids = torch.randint(0, 70, (5, 9))
    for backend in (compiled, TORCH):
        found = backend.dots(weight, inputs, ids)
        exact = torch.einsum("gsd,gnd->gsn", inputs.double(), weight.double()[ids])
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6 * n_inputs**0.5 * 4)
    assert compiled.dots(weight, inputs, ids[:, :0]).shape == (5, n_states, 0)
    assert compiled.dots(weight, inputs[:0], ids[:0]).shape == (0, n_states, 9)


def test_inputs_are_rounded_as_in_torch(compiled: CompiledTiles) -> None:
    inputs = torch.cat([torch.randn(9, 40), torch.tensor([[0.0, -0.0, torch.inf, 3.4e38] * 10])])
    digits = torch.randint(0, 2**16, (4, 40), dtype=torch.int32)
    made = [torch.ones(4, 10, 48, dtype=torch.bfloat16) for _ in range(2)]
    for backend, out in zip((compiled, TORCH), made, strict=True):
        backend.round_(out, inputs, digits)
    assert torch.equal(made[0].view(torch.int16), made[1].view(torch.int16))
    assert bool((made[0][..., 40:] == 1).all())
    inputs[3] = torch.nan
    compiled.round_(made[0], inputs, digits)
    assert bool(made[0][:, 3, :40].isnan().all())


def test_a_lens_is_torchs(n_threads: int) -> None:
    model, states = head_model("gpt2", 64, 9000, 3), related_states(43, 3, 64)
    measured = [
        Lens(model, 10, "bfloat16", 60, name).measure(states, torch.arange(43), [5, 8000])
        for name in ("compiled", "torch")
    ]
    for name, values in measured[0]._asdict().items():
        found, other = (torch.from_numpy(v) for v in (values, getattr(measured[1], name)))
        if "rank" in name:
            assert float((found - other).abs().max()) <= 1
        elif name == "top_ids":
            assert torch.equal(found, other)
        else:
            torch.testing.assert_close(found, other, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("n_tokens", [1, 41])
def test_bytes_are_the_same_for_any_number_of_threads(
    compiled: CompiledTiles, n_tokens: int
) -> None:
    n_rows = 3 * n_tokens
    logits, weight = torch.randn(5, n_rows, 416) * 3, torch.randn(2080, 40)
    inputs, digits = torch.randn(n_rows, 40), torch.randint(0, 2**16, (3, 40)).int()
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            swept, counts = compiled.sweep(Kept(logits), torch.zeros(n_rows, 1), 3)
            largest = compiled.largest(swept, torch.arange(n_rows), 50)
            dots = compiled.dots(weight, inputs.view(n_tokens, 3, 40), largest[1][:n_tokens])
            rounded = torch.zeros(3, n_rows, 48, dtype=torch.bfloat16)
            compiled.round_(rounded, inputs, digits)
            made = (*swept.sums, swept.maxima, counts, *largest, dots, rounded.view(torch.int16))
            found.append([tensor.numpy().tobytes() for tensor in made])
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "call",
    [
        lambda k: k.dots(torch.randn(9, 4).half(), torch.randn(1, 1, 4), IDS),
        lambda k: k.dots(torch.randn(4, 9).T, torch.randn(1, 1, 4), IDS),
        lambda k: k.dots(torch.randn(9, 5), torch.randn(1, 1, 4), IDS),
        lambda k: k.dots(torch.randn(9, 4), torch.randn(2, 1, 4), IDS),
        lambda k: k.dots(torch.randn(9, 4), torch.randn(1, 1, 4).double(), IDS),
        lambda k: k.dots(torch.randn(9, 4), torch.randn(1, 1, 4), IDS + 8),
        lambda k: k.dots(torch.randn(9, 4), torch.randn(1, 1, 4), IDS - 2),
        lambda k: k.sweep(product_of(torch.randn(1, 4, 64)), torch.zeros(4, 1), 3),
        lambda k: k.sweep(product_of(torch.randn(1, 4, 48)), torch.zeros(4, 1), 2),
        lambda k: k.sweep(product_of(torch.randn(1, 4, 2080)), torch.zeros(4, 1), 2),
        lambda k: k.sweep(product_of(torch.randn(1, 4, 64)), torch.zeros(3, 1), 2),
        lambda k: k.largest(SWEPT, torch.tensor([4]), 2),
        lambda k: k.largest(SWEPT, torch.tensor([-1]), 2),
        lambda k: k.largest(SWEPT, torch.tensor([1]), 0),
        lambda k: k.largest(SWEPT, torch.tensor([1]), 65),
        lambda k: k.largest(SWEPT._replace(logits=SWEPT.logits.float()), torch.tensor([1]), 2),
        lambda k: k.round_(torch.ones(2, 3, 8), torch.randn(3, 5), torch.zeros(2, 5).int()),
        lambda k: k.round_(HALF, torch.randn(3, 5), torch.zeros(2, 5)),
        lambda k: k.round_(HALF, torch.randn(4, 5), torch.zeros(2, 5).int()),
        lambda k: k.round_(HALF, torch.randn(3, 9), torch.zeros(2, 9).int()),
    ],
)
def test_what_does_not_fit_is_refused(
    compiled: CompiledTiles, call: Callable[[CompiledTiles], object]
) -> None:
    with pytest.raises(ValueError):
        call(compiled)


IDS = torch.tensor([[0, 1]])
HALF = torch.ones(2, 3, 8, dtype=torch.bfloat16)
SWEPT = TORCH.sweep(product_of(torch.randn(1, 4, 64)), torch.zeros(4, 0), 2)[0]


def test_no_tiling_has_wider_tiles() -> None:
    assert TILE_NUMBERS // rows_at_once(2**20) <= MOST_COLUMNS


def test_half_precision_is_not_known() -> None:
    with pytest.raises(NoKernelError, match="not float16"):
        CompiledTiles(torch.float16)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.probes import stream
from sdlms.probes.stream import ExampleStream, truth_of

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=7)


def documents(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens with a mask that has holes, NaN wherever it is 0, each document's last token kept."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), 3, generator=generator)
    mask = torch.rand(x.shape[:2], generator=generator) < 0.7
    for document, length in enumerate(lengths):
        mask[document, length - 1] = True
        mask[document, length:] = False
    x[~mask] = float("nan")
    return x, mask


@pytest.fixture(params=[1, 8, 8192])
def block_examples(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stream, "BLOCK_EXAMPLES", request.param)
    return int(request.param)


def test_every_mask_1_token_is_an_example_once(block_examples: int) -> None:
    lengths = [4, 1, 5, 2, 3, 3]
    x, mask = documents(lengths)
    expected = [(d, t) for d in range(6) for t in range(5) if mask[d, t]]
    for source in (ExampleStream(x, mask), ExampleStream(Acts(x, dims="bsh", mask=mask))):
        for _ in range(2):
            blocks = list(source.blocks())
            found = [p for b in blocks for p in zip(b.documents.tolist(), b.tokens, strict=True)]
            assert found == expected
            for block in blocks:
                assert torch.equal(block.x, x[block.documents, block.tokens])
                assert len(block.x) <= max(block_examples, 5)


@pytest.mark.usefixtures("block_examples")
def test_documents_are_examples_where_there_are_no_tokens() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    for given_x in (x, x.double(), Acts(x, dims="bh")):
        source = ExampleStream(given_x)
        assert (source.n_documents, source.n_units, source.n_tokens) == (20, 3, None)
        assert torch.equal(source.whole(), x)
        assert torch.cat([block.documents for block in source.blocks()]).tolist() == [*range(20)]
        assert all(block.tokens is None for block in source.blocks())


@given(LENGTHS, st.integers(0, 99))
def test_padding_puts_every_value_back(lengths: list[int], seed: int) -> None:
    x, mask = documents(lengths, seed)
    for source in (ExampleStream(x, mask), ExampleStream(Acts(x, dims="bsh", mask=mask))):
        padded = source.padded([block.x[:, 0] for block in source.blocks()])
        assert padded.shape == mask.shape
        assert torch.equal(padded, x[:, :, 0]) or torch.allclose(padded, x[:, :, 0], equal_nan=True)
        assert torch.equal(padded.isfinite(), mask)


def test_a_mask_beside_acts_takes_tokens_away() -> None:
    x, mask = documents([3, 4])
    fewer = mask.clone()
    fewer[1] = False
    source = ExampleStream(Acts(x, dims="bsh", mask=mask), fewer.int())
    assert {int(d) for block in source.blocks() for d in block.documents} == {0}
    padded = source.padded([block.x[:, 0] for block in source.blocks()])
    assert torch.equal(padded.isfinite(), fewer)


def test_truth_of_a_document_is_repeated_over_its_tokens() -> None:
    x, mask = documents([2, 3, 4])
    source = ExampleStream(x, mask)
    (block,) = source.blocks()
    by_document = source.labelled([True, False, True])
    assert torch.equal(truth_of(block, by_document), block.documents != 1)
    by_token = torch.arange(4) % 2 == torch.arange(3)[:, None] % 2
    found = truth_of(block, source.labelled(by_token.long()))
    assert torch.equal(found, (block.tokens + block.documents) % 2 == 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.usefixtures("block_examples")
def test_the_first_document_that_is_not_finite_is_named(value: float) -> None:
    x = torch.zeros(30, 3)
    x[11, 2] = x[20, 0] = value
    with pytest.raises(UserError, match="document 11 is NaN or infinite"):
        ExampleStream(x).whole()
    names = [f"page-{i}" for i in range(30)]
    acts = Acts(x, dims="bh", documents=names)
    with pytest.raises(UserError, match=r"document 11 \('page-11', layer 0\)"):
        ExampleStream(acts).whole()


def test_opposite_infinities_and_large_numbers_are_told_apart() -> None:
    inf = float("inf")
    with pytest.raises(UserError, match="document 1"):
        ExampleStream(torch.tensor([[1.0, 2.0], [inf, -inf]])).whole()
    large = torch.full((2, 3), 3e38)
    assert torch.equal(ExampleStream(large).whole(), large)


def test_layers_must_be_chosen_first() -> None:
    with pytest.raises(ValueError, match="select_layers"):
        ExampleStream(Acts(torch.zeros(2, 2, 3), dims="blh"))


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, mask = torch.zeros(2, 4, 3), torch.ones(2, 4)
    for tensor, given_mask in ((x, None), (x[0], mask), (x.long(), mask), (x[0, 0], None)):
        with pytest.raises(ValueError, match=r"x|mask"):
            ExampleStream(tensor, given_mask)
    with pytest.raises(ValueError, match=r"mask \(2, 3\)"):
        ExampleStream(x, mask[:, :3])
    source = ExampleStream(x, mask)
    for y in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 4, 1)):
        with pytest.raises(ValueError, match="expected one of"):
            source.labelled(y)
    with pytest.raises(ValueError, match="0 and 1"):
        source.labelled(torch.tensor([0, 2]))
    block = next(iter(ExampleStream(torch.zeros(2, 3)).blocks()))
    with pytest.raises(ValueError, match="tokens"):
        truth_of(block, torch.zeros(2, 4, dtype=torch.bool))

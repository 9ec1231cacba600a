"""Batches: every token once a pass, every layer the same, any step reachable, seeds decide."""

from itertools import islice

import numpy as np
import pytest
import torch

from sdlms.acts import Acts
from sdlms.errors import UserError
from sdlms.sae import stream as stream_module
from sdlms.sae.stream import TokenStream, chapters_of, rows_within


@pytest.fixture(autouse=True)
def small_chapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LEAST_ROWS", 1)


def numbered_acts(n_documents: int = 6, length: int = 10, n_layers: int = 2) -> Acts:
    """Token t of layer l is (t, l); documents have 10 tokens, the first of which is masked."""
    numbers = torch.arange(n_documents * length, dtype=torch.float32).view(n_documents, 1, length)
    layers = torch.arange(n_layers, dtype=torch.float32).view(1, n_layers, 1)
    tensor = torch.stack(torch.broadcast_tensors(numbers, layers), dim=-1)
    mask = torch.ones(n_documents, length)
    mask[:, 0] = 0
    return Acts(tensor.contiguous(), "blsh", mask=mask)


def tokens(stream: TokenStream, n: int, n_skipped: int = 0) -> list[list[int]]:
    return [batch[0, :, 0].int().tolist() for batch in islice(stream.batches(n_skipped), n)]


def flat(batches: list[list[int]]) -> list[int]:
    return [token for batch in batches for token in batch]


@pytest.mark.parametrize("chapter_bytes", [1 << 20, 1])
def test_a_pass_gives_every_token_of_mask_1_at_most_once(chapter_bytes: int) -> None:
    stream = TokenStream(numbered_acts(), 9, 0, chapter_bytes)
    seen = flat(tokens(stream, 6))
    expected = [t for t in range(60) if t % 10]
    assert sorted(seen) == expected
    assert seen != expected
    assert len(stream.chapters(0)) == (1 if chapter_bytes > 1000 else 2)
    assert sorted(flat(tokens(stream, 6, 6))) == expected
    assert tokens(stream, 6, 6) != tokens(stream, 6)


def test_chapters_hold_what_the_memory_takes_and_are_drawn_anew() -> None:
    stream = TokenStream(numbered_acts(), 4, 0, 18 * 2 * 2 * 4)
    first, second = stream.chapters(0), stream.chapters(1)
    assert [chapter.n_rows for chapter in first] == [18, 18, 18]
    assert sorted(np.concatenate([c.documents for c in first]).tolist()) == list(range(6))
    assert [c.documents.tolist() for c in first] != [c.documents.tolist() for c in second]


def test_every_layer_gets_the_same_tokens() -> None:
    for batch in islice(TokenStream(numbered_acts(), 7, 3).batches(), 9):
        assert torch.equal(batch[0, :, 0], batch[1, :, 0])
        assert batch[:, :, 1].unique(dim=1).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("chapter_bytes", [1 << 20, 18 * 2 * 2 * 4])
def test_going_to_a_step_is_the_same_as_getting_there(chapter_bytes: int) -> None:
    everything = tokens(TokenStream(numbered_acts(), 4, 1, chapter_bytes), 40)
    for skipped in (0, 1, 4, 11, 12, 13, 25, 39):
        stream = TokenStream(numbered_acts(), 4, 1, chapter_bytes)
        assert tokens(stream, 40 - skipped, skipped) == everything[skipped:]


def test_what_is_held_can_be_given_back() -> None:
    stream = TokenStream(numbered_acts(), 9, 0)
    (chapter,) = stream.chapters(0)
    before = stream.read(chapter)
    assert stream.read(chapter) is before
    stream.release()
    again = stream.read(chapter)
    assert again is not before
    assert torch.equal(again, before)


def test_the_seed_decides() -> None:
    assert tokens(TokenStream(numbered_acts(), 9, 0), 6) == tokens(
        TokenStream(numbered_acts(), 9, 0), 6
    )
    assert tokens(TokenStream(numbered_acts(), 9, 0), 6) != tokens(
        TokenStream(numbered_acts(), 9, 1), 6
    )


def test_a_document_larger_than_a_chapter_has_one_of_its_own() -> None:
    stream = TokenStream(numbered_acts(length=20), 3, 0, chapter_bytes=1)
    assert [chapter.n_rows for chapter in stream.chapters(0)] == [19] * 6


def test_fewer_tokens_than_a_batch_are_refused() -> None:
    with pytest.raises(UserError, match="--batch-size 55: the training documents have 54 tokens"):
        TokenStream(numbered_acts(), 55, 0)


@pytest.mark.parametrize("chapter_bytes", [1 << 20, 200, 1])
def test_chapters_are_the_same_without_batches(chapter_bytes: int) -> None:
    acts = numbered_acts()
    stream = TokenStream(acts, 1, 7, chapter_bytes)
    most = max(4, rows_within(acts, chapter_bytes))
    for n_pass in (0, 1):
        ours, theirs = stream.chapters(n_pass), chapters_of(np.full(6, 9), most, 7, n_pass)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert one.documents.tolist() == other.documents.tolist()
            assert (one.n_rows, one.seed) == (other.n_rows, other.seed)

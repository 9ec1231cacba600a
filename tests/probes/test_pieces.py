import numpy as np
import pytest
import torch

import sdlms.probes.pieces
from sdlms.errors import UserError
from sdlms.probes.pieces import Piece, Room, cut
from tests.probes.toy_lessons import toy_piece


def test_rows_are_the_mask_1_tokens_document_by_document() -> None:
    piece = toy_piece()
    for layers in ([0, 1], [1]):
        rows = piece.rows(layers)
        for row, layer in zip(rows, layers, strict=True):
            documents = zip(piece.x[layer], piece.mask, strict=True)
            assert torch.equal(row, torch.cat([x[mask] for x, mask in documents]))
    assert piece.counts == piece.mask.sum(dim=1).tolist()
    assert piece.token_columns == list(zip(range(10, 15), piece.counts, strict=True))
    assert piece.document_columns == [(document, 1) for document in range(10, 15)]


def test_padded_puts_values_back_and_fills_the_rest() -> None:
    piece = toy_piece()
    values = torch.arange(2 * piece.mask.sum()).float().view(2, -1)
    padded = piece.padded(values, -1)
    assert padded.shape == (2, *piece.mask.shape)
    assert torch.equal(padded[:, piece.mask], values)
    assert bool((padded[:, ~piece.mask] == -1).all())


def test_vectors_have_rows_but_no_tokens() -> None:
    piece = toy_piece(tokens=False)
    assert torch.equal(piece.rows([1]), piece.x[1:])
    with pytest.raises(ValueError, match="no tokens"):
        _ = piece.counts


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("room", [1, 2, 4, 5])
@pytest.mark.parametrize("cells", [10, 1_000_000])
def test_every_example_is_computed_once_in_order(
    tokens: bool, room: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdlms.probes.pieces, "CELLS", 300)
    whole, halved = toy_piece(tokens), []
    tried: list[int] = []

    def compute(piece: Piece) -> Piece:
        tried.append(len(piece.documents))
        if len(piece.documents) > room:
            raise torch.OutOfMemoryError("no room")
        return piece

    pieces = list(Room(halved.append).run(whole, cells, compute))
    assert [d for piece in pieces for d in piece.documents] == whole.documents.tolist()
    assert torch.equal(torch.cat([piece.x for piece in pieces], dim=1), whole.x)
    positions = np.arange(5)
    assert [p for piece in pieces for p in positions[piece.span]] == positions.tolist()
    assert len(halved) == len(tried) - len(pieces)
    if cells == 1_000_000:
        assert tried == [1] * 5, "one example at a time, however little room CELLS leaves"


def test_room_stays_small_once_memory_ran_out() -> None:
    tried: list[int] = []
    room = Room(lambda _: None)

    def compute(piece: Piece) -> None:
        tried.append(len(piece.documents))
        if len(piece.documents) > 2:
            raise MemoryError

    whole = toy_piece()
    for _ in range(2):
        list(room.run(whole, 1, lambda piece: compute(piece) or piece))
    assert tried == [5, 2, 2, 1, 2, 2, 1]


def test_a_single_document_that_does_not_fit_is_one_clear_line() -> None:
    def compute(piece: Piece) -> None:
        raise MemoryError

    with pytest.raises(UserError, match="single document"):
        list(Room(lambda _: None).run(toy_piece(), 1, compute))


def test_other_errors_pass() -> None:
    def compute(piece: Piece) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(Room(lambda _: None).run(toy_piece(), 1, compute))


def test_a_cut_is_a_view() -> None:
    whole = toy_piece()
    part = cut(whole, 1, 3)
    assert part.x.data_ptr() == whole.x[:, 1:].data_ptr()
    assert part.mask.tolist() == whole.mask[1:3].tolist()
    assert part.span == slice(1, 3)

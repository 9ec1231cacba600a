"""Where a token looked: weights over what the model had read, in bounded pieces and answers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from sdlms.explorer.computing import Urgency
from sdlms.explorer.refusals import NotFound, OutOfRange
from sdlms.explorer.settings import ExplorerSettings
from sdlms.models import attention_rows
from sdlms.models.attention_rows import AttentionReading
from tests.explorer.explorers import (
    core_of,
    running,
    small_model,
    tiny_model,
    two_turns,
)


def test_attention_rows_sum_to_one_over_what_was_read() -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        found = explorer.attention(talk, 7, [2, 0])
        assert found["positions"] == list(range(8))
        assert [layer["layer"] for layer in found["layers"]] == [0, 2]
        sums = torch.tensor([layer["heads"] for layer in found["layers"]]).sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
        with pytest.raises(OutOfRange):
            explorer.attention(talk, 7, [3])
        with pytest.raises(NotFound):
            explorer.attention(talk, 7_000, None)


def test_attention_that_is_no_number_is_refused() -> None:
    loaded = tiny_model("llama")
    weight = loaded.model.base_model.layers[1].self_attn.q_proj.weight
    with running(loaded) as explorer:
        talk = two_turns(explorer)
        before = weight.data.clone()
        try:
            weight.data[:] = float("inf")
            with pytest.raises(OutOfRange, match="layer 1 is not finite; start with --dtype"):
                explorer.attention(talk, 7, None)
            assert explorer.attention(talk, 7, [0])["layers"]
        finally:
            weight.data.copy_(before)


def test_others_are_served_between_two_pieces_of_a_long_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_rows, "PIECE_TOKENS", 4)
    order: list[str] = []
    read_piece = AttentionReading.read_piece
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        begun, waits = threading.Event(), threading.Event()

        def read(reading: AttentionReading) -> None:
            order.append("piece")
            begun.set()
            assert waits.wait(30)
            read_piece(reading)

        monkeypatch.setattr(AttentionReading, "read_piece", read)
        computer = core_of(explorer).computer
        with ThreadPoolExecutor(2) as clients:
            found = clients.submit(explorer.attention, talk, 20, None)
            assert begun.wait(30)
            other = clients.submit(computer.run, Urgency.CLICK, lambda: order.append("click"))
            while not computer._waiting:
                pass
            waits.set()
            other.result()
            assert found.result()["positions"] == list(range(21))
    assert order == ["piece", "click", *["piece"] * 4]


@pytest.mark.parametrize("most", [1, 2 * 5, 2 * 5 + 1, 2 * 8, 2 * 8 * 2, 2 * 8 * 3])
def test_answers_are_bounded_and_say_what_they_leave_out(most: int) -> None:
    with running(small_model()) as explorer:
        talk = two_turns(explorer)
        whole = explorer.attention(talk, 7, None)
        assert (whole["n_left_out"], whole["left_out_layers"]) == (0, [])
    with running(small_model(), settings=ExplorerSettings(max_attention_weights=most)) as explorer:
        talk = two_turns(explorer)
        found = explorer.attention(talk, 7, None)
    heads = np.array([layer["heads"] for layer in found["layers"]])
    n_layers, n_heads, n_keys = heads.shape
    assert heads.size <= max(most, n_heads)
    assert found["positions"] == whole["positions"][-n_keys:]
    assert found["n_left_out"] == 8 - n_keys
    assert found["left_out_layers"] == list(range(3 - n_layers))
    expected = np.array([layer["heads"] for layer in whole["layers"]])
    np.testing.assert_allclose(heads, expected[3 - n_layers :, :, 8 - n_keys :], atol=1e-6)
    # No more is left out than must be.
    assert n_keys == 8 or (n_keys + 1) * n_heads > most
    assert n_layers == 3 or (n_layers + 1) * n_heads * n_keys > most

import threading
from collections.abc import Generator

import pytest

from sdlms.explorer.events import Pieces


def numbers(log: list[str], given_up: threading.Event | None = None) -> Generator[int]:
    try:
        for n in range(5):
            log.append(f"made {n}")
            yield n
            if given_up is not None:
                given_up.wait(10)
                return
    finally:
        log.append("ended")


def test_the_first_piece_is_made_at_once_and_none_is_lost() -> None:
    log: list[str] = []
    pieces = Pieces(numbers(log))
    assert log == ["made 0"]
    assert list(pieces) == [0, 1, 2, 3, 4]


def test_what_is_refused_is_refused_before_there_are_pieces() -> None:
    def refused() -> Generator[int]:
        raise KeyError("no")
        yield 0

    with pytest.raises(KeyError):
        Pieces(refused())


def test_an_answer_may_be_empty() -> None:
    assert list(Pieces(n for n in range(0))) == []


def test_closing_ends_what_was_begun() -> None:
    log: list[str] = []
    pieces = Pieces(numbers(log))
    pieces.close()
    assert log == ["made 0", "ended"]
    pieces.close()


def test_one_thread_may_close_while_another_makes_a_piece() -> None:
    log: list[str] = []
    given_up = threading.Event()
    pieces = Pieces(numbers(log, given_up), given_up)
    assert next(pieces) == 0
    rest: list[int] = []
    reader = threading.Thread(target=lambda: rest.extend(pieces))
    reader.start()
    pieces.close()
    reader.join(10)
    assert not reader.is_alive()
    assert (rest, log[-1]) == ([], "ended")

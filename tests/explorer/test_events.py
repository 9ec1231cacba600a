import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from sdlms.explorer.events import AT_ONCE_SECONDS, Ahead, Pieces
from sdlms.explorer.refusals import BadRequest, Closed


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


def test_nothing_is_made_before_it_is_asked_for() -> None:
    log: list[str] = []
    pieces = Pieces(numbers(log))
    assert log == []
    assert next(pieces) == 0
    assert log == ["made 0"]


def test_the_first_piece_may_be_made_at_once_and_none_is_lost() -> None:
    log: list[str] = []
    pieces = Pieces.begun(numbers(log))
    assert log == ["made 0"]
    assert list(pieces) == [0, 1, 2, 3, 4]


def test_what_is_refused_is_refused_before_there_are_pieces() -> None:
    def refused() -> Generator[int]:
        raise KeyError("no")
        yield 0

    with pytest.raises(KeyError):
        Pieces.begun(refused())


def test_an_answer_may_be_empty() -> None:
    assert list(Pieces(n for n in range(0))) == []
    assert list(Pieces.begun(n for n in range(0))) == []


def test_closing_ends_what_was_begun() -> None:
    log: list[str] = []
    pieces = Pieces.begun(numbers(log))
    pieces.close()
    assert log == ["made 0", "ended"]
    pieces.close()


def test_who_makes_an_item_learns_that_nobody_wants_it() -> None:
    log: list[str] = []
    given_up = threading.Event()
    pieces = Pieces(numbers(log, given_up), given_up)
    assert next(pieces) == 0
    with ThreadPoolExecutor(1) as others:
        rest = others.submit(list, pieces)
        pieces.give_up()
        assert rest.result() == []
    assert log == ["made 0", "ended"]


def test_a_piece_that_is_being_made_is_made_to_its_end_before_it_closes() -> None:
    log: list[str] = []
    goes_on = threading.Event()
    pieces = Pieces(numbers(log, goes_on))
    assert next(pieces) == 0
    with ThreadPoolExecutor(2) as others:
        rest = others.submit(list, pieces)
        closing = others.submit(pieces.close)
        goes_on.set()
        closing.result()
        assert rest.result() == []
    assert log[-1] == "ended"


def test_what_comes_at_once_is_handed_out_together() -> None:
    def items() -> Generator[int | None]:
        yield 1
        yield 2
        yield None  # the next one takes long
        yield None
        yield 3

    pieces = Pieces(items())
    assert [pieces.take(), pieces.take(), pieces.take()] == [[1, 2], [3], []]
    assert list(Pieces(items())) == [1, 2, 3]
    assert [len(some) for some in iter(Pieces(n for n in range(70)).take, [])] == [32, 32, 6]


def test_what_takes_a_moment_is_handed_out_alone() -> None:
    def items() -> Generator[int]:
        for n in range(3):
            time.sleep(2 * AT_ONCE_SECONDS)
            yield n

    pieces = Pieces(items())
    assert [pieces.take() for _ in range(4)] == [[0], [1], [2], []]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as opened:
        yield opened


def test_items_are_made_before_anybody_takes_them(threads: ThreadPoolExecutor) -> None:
    log: list[str] = []
    ahead = Ahead(numbers(log), threading.Event(), threads)
    wait([ahead._end])
    assert log == [*(f"made {n}" for n in range(5)), "ended"]
    assert list(ahead) == [0, 1, 2, 3, 4]
    assert list(ahead) == []


def test_the_first_item_is_refused_where_it_is_asked_for(threads: ThreadPoolExecutor) -> None:
    def refused() -> Generator[int]:
        raise BadRequest("no")
        yield 0

    with pytest.raises(BadRequest):
        Ahead(refused(), threading.Event(), threads)


def failing(error: Exception) -> Generator[int]:
    yield 0
    raise error


def test_what_goes_wrong_later_reaches_who_reads(threads: ThreadPoolExecutor) -> None:
    ahead = Ahead(failing(KeyError("x")), threading.Event(), threads)
    assert next(ahead) == 0
    with pytest.raises(KeyError):
        next(ahead)


@pytest.mark.parametrize(("error", "is_said"), [(KeyError("x"), True), (Closed("the end"), False)])
def test_what_nobody_reads_is_said_unless_it_is_no_bug(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, error: Exception, is_said: bool
) -> None:
    ahead = Ahead(failing(error), threading.Event(), threads)
    ahead.close()
    assert ("nobody waited for failed: KeyError('x')" in caplog.text) is is_said


def test_closing_gives_up_waits_and_ends_who_reads(threads: ThreadPoolExecutor) -> None:
    log: list[str] = []
    given_up = threading.Event()
    ahead = Ahead(numbers(log, given_up), given_up, threads)
    assert next(ahead) == 0
    reading = threads.submit(lambda: list(ahead))
    ahead.close()
    assert log == ["made 0", "ended"]
    assert reading.result(10) == []
    ahead.close()
    assert list(ahead) == []


def test_what_is_made_already_is_taken_together(threads: ThreadPoolExecutor) -> None:
    ahead = Ahead(numbers([]), threading.Event(), threads)
    wait([ahead._end])
    assert [ahead.take(), ahead.take(), ahead.take()] == [[0, 1, 2, 3, 4], [], []]
    assert list(ahead) == []


def test_nobody_waits_for_an_item_to_take_the_one_before(threads: ThreadPoolExecutor) -> None:
    goes_on = threading.Event()

    def items() -> Generator[int]:
        yield 0
        goes_on.wait(10)
        yield 1

    ahead = Ahead(items(), threading.Event(), threads)
    assert ahead.take() == [0]
    goes_on.set()
    assert [ahead.take(), ahead.take()] == [[1], []]


def test_what_goes_wrong_is_raised_behind_what_was_made(threads: ThreadPoolExecutor) -> None:
    def items() -> Generator[int]:
        yield 0
        raise BadRequest("no")

    ahead = Ahead(items(), threading.Event(), threads)
    wait([ahead._end])
    assert ahead.take() == [0]
    with pytest.raises(BadRequest):
        ahead.take()

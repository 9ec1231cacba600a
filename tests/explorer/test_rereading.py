from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from sdlms.explorer.refusals import GivenUp
from sdlms.explorer.rereading import NEVER, Rereading, check_wanted


def test_only_one_reads_at_a_time() -> None:
    rereading, n_inside, most = Rereading(), 0, 0

    def read() -> None:
        nonlocal n_inside, most
        with rereading.turn(NEVER):
            n_inside += 1
            most = max(most, n_inside)
            n_inside -= 1

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(read) for _ in range(64)]:
            done.result(30)
    assert (most, n_inside) == (1, 0)


def test_who_is_given_up_leaves_the_queue_while_another_reads() -> None:
    rereading, given_up = Rereading(), Event()

    def wait_for_turn() -> None:
        with rereading.turn(given_up):
            raise AssertionError("it is another's turn")

    with ThreadPoolExecutor(1) as threads:
        with rereading.turn(NEVER):
            waiting = threads.submit(wait_for_turn)
            given_up.set()
            with pytest.raises(GivenUp):
                waiting.result(30)
        with rereading.turn(Event()):
            pass


def test_the_turn_ends_with_an_error_too() -> None:
    rereading, given_up = Rereading(), Event()
    given_up.set()
    with pytest.raises(GivenUp), rereading.turn(given_up):
        raise AssertionError("nobody waits")
    with pytest.raises(ZeroDivisionError), rereading.turn(NEVER):
        1 / 0  # noqa: B018
    with rereading.turn(NEVER):
        check_wanted(NEVER)

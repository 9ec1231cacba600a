"""An interrupt waits for the end of the block; a second one does not; others' handlers stay."""

import os
import signal
import threading
from types import FrameType

import pytest

from sdlms.errors import UserError
from sdlms.sae.interrupts import HELD, held_interrupts


@pytest.fixture(autouse=True)
def as_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> object:
    """SIGTERM raises KeyboardInterrupt there."""
    before = [signal.signal(number, signal.default_int_handler) for number in HELD]
    yield
    for number, handler in zip(HELD, before, strict=True):
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", HELD)
def test_the_block_ends_first(number: int) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        send(number)
        done.append("all of it")
    assert done == ["all of it"]
    assert all(signal.getsignal(each) is signal.default_int_handler for each in HELD)


def test_a_second_one_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        send(signal.SIGINT)
        send(signal.SIGINT)
        done.append("not reached")
    assert not done
    assert all(signal.getsignal(each) is signal.default_int_handler for each in HELD)


def test_nothing_came_and_nothing_is_raised() -> None:
    before = [signal.getsignal(each) for each in HELD]
    with held_interrupts():
        assert [signal.getsignal(each) for each in HELD] != before
    assert [signal.getsignal(each) for each in HELD] == before


def test_what_the_block_raises_goes_first() -> None:
    with pytest.raises(UserError), held_interrupts():
        send(signal.SIGINT)
        raise UserError("diverges")


def test_handlers_of_others_are_left_alone() -> None:
    seen: list[int] = []

    def own(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    signal.signal(signal.SIGTERM, own)
    with held_interrupts():
        send(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is own


def test_in_other_threads_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with held_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]

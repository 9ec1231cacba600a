import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sdlms.explorer.computing import Computer, Urgency
from sdlms.explorer.refusals import Closed


@pytest.fixture
def computer() -> Iterator[Computer]:
    opened = Computer()
    yield opened
    opened.close()


def held(computer: Computer) -> tuple[threading.Event, threading.Thread]:
    """Work that goes on until the event is set."""
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(10)

    thread = threading.Thread(target=lambda: computer.run(Urgency.CLICK, work))
    thread.start()
    assert begun.wait(10)
    return end, thread


def waiting(computer: Computer, n: int) -> None:
    """Return when so many wait."""
    for _ in range(1000):
        if len(computer._waiting) == n:
            return
        time.sleep(0.002)
    raise AssertionError(f"{len(computer._waiting)} wait, not {n}")


def test_work_runs_in_one_thread_without_gradients(computer: Computer) -> None:
    def work() -> tuple[int, bool]:
        return threading.get_ident(), torch.is_grad_enabled()

    with ThreadPoolExecutor(4) as clients:
        found = list(clients.map(lambda _: computer.run(Urgency.CLICK, work), range(8)))
    assert len(set(found)) == 1
    assert found[0][0] != threading.get_ident()
    assert not found[0][1]


def test_clicks_go_before_generation_before_filling(computer: Computer) -> None:
    order: list[str] = []
    end, thread = held(computer)
    clients = []
    wishes = (Urgency.FILLING, Urgency.GENERATION, Urgency.CLICK)
    for n, urgency in enumerate(wishes, 1):

        def ask(urgency: Urgency = urgency) -> None:
            computer.run(urgency, lambda: order.append(urgency.name))

        clients.append(threading.Thread(target=ask))
        clients[-1].start()
        waiting(computer, n)
    end.set()
    for client in [thread, *clients]:
        client.join(10)
    assert order == ["CLICK", "GENERATION", "FILLING"]


def test_a_reply_that_has_waited_goes_before_later_clicks(computer: Computer) -> None:
    order: list[str] = []
    end, thread = held(computer)
    asked: list[threading.Thread] = []

    def ask(urgency: Urgency) -> None:
        asked.append(
            threading.Thread(
                target=lambda: computer.run(urgency, lambda: order.append(urgency.name))
            )
        )
        asked[-1].start()

    ask(Urgency.GENERATION)
    waiting(computer, 1)
    time.sleep(Urgency.GENERATION.value + 0.05)
    ask(Urgency.CLICK)
    waiting(computer, 2)
    end.set()
    for client in [thread, *asked]:
        client.join(10)
    assert order == ["GENERATION", "CLICK"]


def test_nothing_is_filled_while_a_reply_is_generated(computer: Computer) -> None:
    filled = threading.Event()
    with computer.generating():
        filler = threading.Thread(target=lambda: computer.run(Urgency.FILLING, filled.set))
        filler.start()
        waiting(computer, 1)
        assert computer.run(Urgency.GENERATION, lambda: 3) == 3
        assert computer.run(Urgency.CLICK, lambda: 4) == 4
        assert not filled.is_set()
    assert filled.wait(10)
    filler.join(10)


def test_an_error_reaches_who_asked_and_nobody_else(computer: Computer) -> None:
    def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        computer.run(Urgency.CLICK, fail)
    assert computer.run(Urgency.CLICK, lambda: 1) == 1


def test_who_is_interrupted_while_he_waits_holds_nobody_up(
    computer: Computer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    end, thread = held(computer)
    with monkeypatch.context() as patched:
        patched.setattr(computer._changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            computer.run(Urgency.CLICK, lambda: None)
    end.set()
    thread.join(10)
    found: list[int] = []
    client = threading.Thread(
        target=lambda: found.append(computer.run(Urgency.GENERATION, lambda: 1))
    )
    client.start()
    client.join(10)
    assert found == [1]


def test_who_waits_when_it_closes_is_refused(computer: Computer) -> None:
    end, thread = held(computer)
    refused: list[Exception] = []

    def ask(work: Callable[[], None]) -> None:
        try:
            computer.run(Urgency.CLICK, work)
        except Closed as error:
            refused.append(error)

    client = threading.Thread(target=ask, args=(lambda: None,))
    client.start()
    waiting(computer, 1)
    closing = threading.Thread(target=computer.close)
    closing.start()
    client.join(10)
    end.set()
    for other in (thread, closing):
        other.join(10)
    assert len(refused) == 1
    with pytest.raises(Closed):
        computer.run(Urgency.CLICK, lambda: None)

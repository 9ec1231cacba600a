import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sdlms.explorer.cache import writer as writers
from sdlms.explorer.cache.writer import Job, Writer


@contextmanager
def running(
    rest: Callable[[], None] = lambda: None,
    died: Callable[[BaseException, list[Job]], None] = lambda bug, jobs: None,
) -> Iterator[tuple[Writer, threading.Condition]]:
    changed = threading.Condition()
    writer = Writer(changed, rest, 0.01, died)
    yield writer, changed
    writer.close()
    assert not writer.is_alive


def test_jobs_are_done_in_order_and_waited_for() -> None:
    done: list[int] = []
    with running() as (writer, changed), changed:
        for i in range(100):
            writer.add(Job("c", lambda i=i: done.append(i), "rows"))
        writer.wait_for(lambda job: True)
        assert done == list(range(100))


def test_who_waits_for_one_conversation_does_not_wait_for_others() -> None:
    gate = threading.Event()
    with running() as (writer, changed):
        with changed:
            writer.add(Job("a", lambda: None, "rows"))
            writer.add(Job("b", lambda: gate.wait(10) and None, "rows"))
            writer.wait_for(lambda job: job.conversation == "a")
            assert writer.busy() == {"b"}
        gate.set()


def test_closing_does_what_is_left() -> None:
    done: list[int] = []
    with running() as (writer, changed), changed:
        for i in range(20):
            writer.add(Job("c", lambda i=i: done.append(i) or time.sleep(0.001), "rows"))
    assert done == list(range(20))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_bug_nobody_waits_for_ever_and_it_is_told() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    told: list[tuple[type[BaseException], list[str]]] = []

    def died(bug: BaseException, jobs: list[Job]) -> None:
        told.append((type(bug), [job.conversation for job in jobs]))

    with running(died=died) as (writer, changed), changed:
        writer.add(Job("a", bug, "rows"))
        writer.add(Job("b", lambda: None, "rows", n_bytes=1 << 40))
        writer.wait_for(lambda job: True)
        writer.wait_for_room()
        assert not writer.is_alive
    assert told == [(ZeroDivisionError, ["a", "b"])]


def test_an_end_without_a_bug_is_none() -> None:
    told: list[BaseException] = []
    with running(died=lambda bug, jobs: told.append(bug)) as (writer, changed), changed:
        writer.add(Job("a", lambda: None, "rows"))
    assert not told


def test_who_waits_for_a_job_does_not_wait_for_the_rest_after_it() -> None:
    gate, in_time = threading.Event(), list[bool]()
    with running(rest=lambda: in_time.append(gate.wait(5))) as (writer, changed):
        with changed:
            writer.add(Job("a", lambda: None, "rows"))
            writer.wait_for(lambda job: True)
        gate.set()
    assert in_time and all(in_time)


def test_a_full_queue_makes_the_caller_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "MOST_WAITING_BYTES", 10)
    gate = threading.Event()
    with running() as (writer, changed):
        with changed:
            writer.add(Job("a", lambda: gate.wait(10) and None, "rows", n_bytes=10))
        threading.Timer(0.05, gate.set).start()
        with changed:
            assert not gate.is_set()
            writer.wait_for_room()
            assert gate.is_set()


def test_it_looks_after_other_things_when_nothing_is_to_be_done() -> None:
    rested = threading.Event()
    with running(rest=rested.set):
        assert rested.wait(10)


@pytest.mark.parametrize(
    ("job", "positions", "touched"),
    [
        (Job("c", lambda: None, "logit", 3, 6), [5, 9], True),
        (Job("c", lambda: None, "logit", 3, 6), [6, 9], False),
        (Job("c", lambda: None, "logit", 3, 6), [0, 2], False),
        (Job("c", lambda: None, "logit", 3, 6), [], False),
        (Job("c", lambda: None, "all", 3), [1, 1000], True),
        (Job("c", lambda: None, "tuned", 3, 6), [4], False),
        (Job("d", lambda: None, "logit", 3, 6), [4], False),
    ],
)
def test_a_job_touches_its_own_rows(job: Job, positions: list[int], touched: bool) -> None:
    assert job.touches("c", "logit", positions) == touched


def test_the_last_waiting_job_is_none_that_has_begun() -> None:
    gate, begun = threading.Event(), threading.Event()
    with running() as (writer, changed):
        with changed:
            writer.add(Job("c", lambda: begun.set() or (gate.wait(10) and None), "record"))
        begun.wait(10)
        with changed:
            assert writer.last_waiting("c") is None
            writer.add(Job("c", lambda: None, "all"))
            writer.add(Job("d", lambda: None, "record"))
            last = writer.last_waiting("c")
            assert last is not None and last.kind == "all"
        gate.set()

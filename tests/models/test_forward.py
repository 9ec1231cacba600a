import threading
import time

import numpy as np
import pytest
import torch

from sdlms.models.forward import Checkpointer, Worker, padded_inputs
from sdlms.storage.rows import Rows

ROWS = Rows(
    ids=np.arange(10, 19, dtype=np.int32),
    mask=np.ones(9, dtype=np.uint8),
    offsets=np.array([0, 4, 6, 9], dtype=np.int64),
    document_ids=["a", "b", "c"],
    document_tasks=["t", "t", "t"],
)


def test_padding_repeats_the_last_token_and_causal_models_need_no_mask() -> None:
    ids, mask = padded_inputs(ROWS, [0, 1], torch.device("cpu"), causal=True)
    assert ids.tolist() == [[10, 11, 12, 13], [14, 15, 15, 15]]
    assert mask is None


def test_encoders_get_their_mask() -> None:
    ids, mask = padded_inputs(ROWS, [2, 1], torch.device("cpu"), causal=False)
    assert ids.tolist() == [[16, 17, 18], [14, 15, 15]]
    assert mask is not None
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_worker_keeps_the_order_and_bounds_what_waits() -> None:
    done: list[int] = []
    gate = threading.Event()

    def work(number: int) -> None:
        gate.wait()
        done.append(number)

    with Worker(depth=2) as worker:
        worker.submit(work, 0)
        worker.submit(work, 1)
        third = threading.Thread(target=worker.submit, args=(work, 2))
        third.start()
        third.join(timeout=0.2)
        assert third.is_alive()  # two wait already
        gate.set()
        third.join()
        worker.drain()
    assert done == [0, 1, 2]


def test_a_workers_error_reaches_the_caller() -> None:
    def fail() -> None:
        raise OSError("disk")

    with Worker() as worker:
        worker.submit(fail)
        with pytest.raises(OSError, match="disk"):
            worker.drain()


def test_a_checkpoint_never_holds_up_the_work_and_the_next_covers_what_was_skipped() -> None:
    saved: list[int] = []
    gate = threading.Event()

    def save(number: int) -> None:
        gate.wait()
        saved.append(number)

    with Checkpointer(save) as checkpointer:
        for number in (1, 2, 3):
            checkpointer.reached(number)  # does not wait for the first
        gate.set()
        while not saved:
            pass
        time.sleep(0.05)
        checkpointer.reached(4)
    assert saved == [1, 4]


def test_a_failed_checkpoint_stops_the_run() -> None:
    def fail(number: int) -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), Checkpointer(fail) as checkpointer:
        checkpointer.reached(1)

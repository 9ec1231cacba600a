"""Run documents through a recording model, handing the results to a second thread."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self

import numpy as np
import torch
from torch import Tensor

from sdlms.models.recording import Key, Recording
from sdlms.storage.rows import Rows

Recorded = dict[Key, Tensor]
Arguments = ParamSpec("Arguments")


def padded_inputs(
    rows: Rows, documents: Sequence[int], device: torch.device, *, causal: bool
) -> tuple[Tensor, Tensor | None]:
    """A right-padded batch.

    Causal models need no mask: real tokens never see the padding to their right. It repeats each
    document's last token, for some models warn when they meet their own padding token.

    Returns:
        `[batch, token]` int64 ids and, for encoders only, the attention mask of the same shape.
    """
    lengths = rows.lengths[list(documents)].tolist()
    ids = np.empty((len(lengths), max(lengths)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, (document, length) in enumerate(zip(documents, lengths, strict=True)):
        first = rows.offsets[document]
        ids[row, :length] = rows.ids[first : first + length]
        ids[row, length:] = ids[row, length - 1]
        mask[row, :length] = 1
    on_device = torch.from_numpy(ids).to(device)
    return on_device, None if causal else torch.from_numpy(mask).to(device)


class Worker:
    """One thread that does calls in order while the next forward runs.

    An error there is raised by a later call of `submit` or by `drain`.
    """

    def __init__(self, depth: int = 1) -> None:
        """At most `depth` calls wait; then `submit` waits too, so memory stays bounded."""
        self._depth = depth
        # Its operations are small: torch's threads belong to the forward.
        self._pool = ThreadPoolExecutor(
            1, "worker", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(
        self,
        call: Callable[Arguments, None],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> None:
        """Hand over one call."""
        while len(self._waiting) >= self._depth:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(call, *args, **kwargs))

    def drain(self) -> None:
        """Wait until everything handed over was done."""
        while self._waiting:
            self._waiting.popleft().result()


class Checkpointer:
    """Makes progress durable in the background, one checkpoint at a time.

    A sync may take longer than the work it secures; what is reached meanwhile is covered by the
    next checkpoint, and nobody waits.
    """

    def __init__(self, save: Callable[[int], None]) -> None:
        """`save` syncs everything done so far, then writes down the number that was reached."""
        self._save = save
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None

    def reached(self, number: int) -> None:
        """Say how far the work has come; starts a checkpoint unless one is being written."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._running = self._pool.submit(self._save, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if self._running is not None and error is None:
            self._running.result()


def forward_batch(
    recording: Recording,
    rows: Rows,
    store: dict[str, torch.dtype],
    device: torch.device,
    causal: bool,
    documents: list[int],
) -> Recorded:
    """One forward of one batch; what was recorded, cast to the stored types, on the CPU.

    Returns:
        `(site, layer)` to `[batch, token, unit]`, padding included.
    """
    recorded = recording.run(*padded_inputs(rows, documents, device, causal=causal))
    return {key: tensor.to(store[key[0]]).cpu() for key, tensor in recorded.items()}

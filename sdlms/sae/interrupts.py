"""Ctrl-C and SIGTERM that wait until something is whole."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_interrupts() -> Iterator[None]:
    """Let the block end before an interrupt is raised; a second one is raised at once.

    Signals with a handler of their own are left alone. Outside the main thread nothing is held, for
    signals do not come there.

    Raises:
        KeyboardInterrupt: one came meanwhile.
    """
    is_main = threading.current_thread() is threading.main_thread()
    own = signal.default_int_handler
    held = [number for number in HELD if is_main and signal.getsignal(number) is own]
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    try:
        for number in held:
            signal.signal(number, note)
        yield
    finally:
        for number in held:
            signal.signal(number, own)
    if came:
        raise KeyboardInterrupt

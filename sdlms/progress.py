"""One progress helper: a live line on a terminal, plain log lines elsewhere; and log set-up."""

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

LOG_EVERY_SECONDS = 10.0
LOGGER = logging.getLogger("sdlms")


class _CurrentStderr(logging.StreamHandler[Any]):
    """Writes to whatever `sys.stderr` is at the moment, so that a live line can stay below."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging(*, verbose: bool, quiet: bool) -> None:
    """Send sdlms' log to stderr: warnings with `quiet`, everything with `verbose`."""
    for handler in [h for h in LOGGER.handlers if isinstance(h, _CurrentStderr)]:
        LOGGER.removeHandler(handler)
    console = _CurrentStderr()
    console.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(console)
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False


def readable_bytes(size_bytes: float) -> str:
    """A size for people: `512 B`, `3.4 MB`, `1.2 GB` (powers of 1000)."""
    if round(size_bytes) < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if round(size_bytes, 1) < 1000:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1000:.1f} TB"


def readable_seconds(seconds: float) -> str:
    """A duration for people: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts units of work and says how fast it goes and how long it will take.

    Use as a context manager; `advance` may be called from any thread.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        gpu_memory: Callable[[], int] | None = None,
    ) -> None:
        """`done` units were finished by an earlier try; `gpu_memory` gives the bytes held there."""
        self.label, self.total, self.unit = label, total, unit
        self.done = self._done_before = done
        self._gpu_memory = gpu_memory
        self._lock = threading.Lock()
        self._began = self._logged = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> Self:
        self._began = self._logged = time.monotonic()
        if sys.stderr.isatty() and not _is_quiet():
            self._live = self._live_line()
        return self

    def _live_line(self) -> Any:
        """A line that redraws itself below the log; None where the terminal cannot redraw."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True)
        if not console.is_terminal or console.is_dumb_terminal:
            return None
        live = Live(
            get_renderable=lambda: Text(self.line(), no_wrap=True, overflow="ellipsis"),
            console=console,
            refresh_per_second=4,
            transient=True,  # the closing log line takes its place
        )
        live.start()
        return live

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is None:
            took = readable_seconds(time.monotonic() - self._began)
            LOGGER.info(
                "%s: %s %s in %s (%s/s)",
                self.label,
                f"{self.done - self._done_before:,}",
                self.unit,
                took,
                f"{self._rate():,.0f}",
            )

    def advance(self, n: int) -> None:
        """Count `n` more units; off a terminal, log a line now and then."""
        with self._lock:
            self.done += n
            due = time.monotonic() - self._logged >= LOG_EVERY_SECONDS
            if due:
                self._logged = time.monotonic()
        if due and self._live is None:
            LOGGER.info("%s", self.line())

    def line(self) -> str:
        """The state in one line: share, count, rate, time left, memory."""
        import psutil

        rate = self._rate()
        left = readable_seconds(max(self.total - self.done, 0) / rate) if rate > 0 else "?"
        share = self.done / self.total if self.total else 1.0
        memory = readable_bytes(psutil.Process().memory_info().rss)
        gpu = f", GPU {readable_bytes(self._gpu_memory())}" if self._gpu_memory else ""
        return (
            f"{self.label}: {share:4.0%} {self.done:,}/{self.total:,} {self.unit}, "
            f"{rate:,.0f} {self.unit}/s, {left} left, memory {memory}{gpu}"
        )

    def _rate(self) -> float:
        """Units per second of this try."""
        seconds = time.monotonic() - self._began
        return (self.done - self._done_before) / seconds if seconds > 0 else 0.0


def _is_quiet() -> bool:
    """Whether the console shows warnings only."""
    levels = [h.level for h in LOGGER.handlers if isinstance(h, _CurrentStderr)]
    return not levels or min(levels) > logging.INFO

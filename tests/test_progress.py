"""Progress and logs: plain lines off a terminal, a live line on one, silence with --quiet."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms import progress
from sdlms.progress import (
    LOG_EVERY_SECONDS,
    LOGGER,
    Progress,
    readable_bytes,
    readable_seconds,
    set_up_logging,
)

LINE = re.compile(
    r"capture:\s+\d+% [\d,]+/[\d,]+ tokens, [\d,]+ tokens/s, .+ left, memory [\d.]+ [kMG]?B"
)


class Clock:
    """A clock that a test moves."""

    seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def logging_set_up() -> Iterator[None]:
    handlers, level, propagate = list(LOGGER.handlers), LOGGER.level, LOGGER.propagate
    set_up_logging(verbose=False, quiet=False)
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


class Terminal(io.StringIO):
    """A stream that says it is a terminal; tests put it in the place of stderr."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


class TestLogging:
    @pytest.mark.parametrize(
        ("verbose", "quiet", "expected"),
        [(False, False, "iw"), (True, False, "diw"), (False, True, "w"), (True, True, "w")],
    )
    def test_flags_choose_what_is_said(
        self, capsys: pytest.CaptureFixture[str], verbose: bool, quiet: bool, expected: str
    ) -> None:
        set_up_logging(verbose=verbose, quiet=quiet)
        LOGGER.debug("d")
        LOGGER.info("i")
        LOGGER.warning("w")
        captured = capsys.readouterr()
        assert captured.err.split() == list(expected)
        assert captured.out == ""

    def test_setting_up_twice_says_things_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        set_up_logging(verbose=False, quiet=False)
        LOGGER.info("once")
        assert capsys.readouterr().err == "once\n"


class TestReadable:
    @pytest.mark.parametrize(
        ("size_bytes", "expected"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (999.7, "1.0 kB"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (3_400_000, "3.4 MB"),
            (1.2e9, "1.2 GB"),
            (2.5e12, "2.5 TB"),
            (1e16, "10000.0 TB"),
        ],
    )
    def test_sizes(self, size_bytes: float, expected: str) -> None:
        assert readable_bytes(size_bytes) == expected

    @given(st.integers(1, 10**15))
    def test_a_size_reads_back_to_two_digits(self, size_bytes: int) -> None:
        number, unit = readable_bytes(size_bytes).split()
        factor = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
        assert float(number) * factor == pytest.approx(size_bytes, rel=0.05)

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (0, "0 s"),
            (45.4, "45 s"),
            (59.6, "1 min 00 s"),
            (200, "3 min 20 s"),
            (3599.7, "1 h 00 min"),
            (7500, "2 h 05 min"),
        ],
    )
    def test_durations(self, seconds: float, expected: str) -> None:
        assert readable_seconds(seconds) == expected


class TestOffATerminal:
    def test_lines_are_throttled_and_the_end_is_always_said(
        self, capsys: pytest.CaptureFixture[str], clock: Clock
    ) -> None:
        with Progress("capture", 1000, "tokens") as running:
            for _ in range(100):
                clock.seconds += LOG_EVERY_SECONDS / 40
                running.advance(10)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 3
        assert all(LINE.match(line) for line in lines[:2])
        assert lines[2] == "capture: 1,000 tokens in 25 s (40/s)"
        assert "\x1b" not in "".join(lines)

    def test_a_line_says_share_rate_time_left_and_memory(self, clock: Clock) -> None:
        with Progress("capture", 1000, "tokens", gpu_memory=lambda: 1_500_000_000) as running:
            clock.seconds += 5
            running.advance(250)
            line = running.line()
        assert line.startswith("capture:  25% 250/1,000 tokens, 50 tokens/s, 15 s left, memory ")
        assert line.endswith(", GPU 1.5 GB")

    def test_work_of_an_earlier_try_counts_as_done_but_not_as_speed(
        self, capsys: pytest.CaptureFixture[str], clock: Clock
    ) -> None:
        with Progress("capture", 1000, "tokens", done=800) as running:
            clock.seconds += 10
            running.advance(100)
            assert "90% 900/1,000 tokens, 10 tokens/s, 10 s left" in running.line()
        assert capsys.readouterr().err.endswith("capture: 100 tokens in 10 s (10/s)\n")

    def test_nothing_done_nothing_to_do_and_too_much_done_are_lines_too(self, clock: Clock) -> None:
        assert "0% 0/10 tokens, 0 tokens/s, ? left" in Progress("a", 10, "tokens").line()
        assert "100% 0/0 tokens" in Progress("a", 0, "tokens").line()
        running = Progress("a", 10, "tokens")
        clock.seconds += 1
        running.advance(20)
        assert ", 0 s left" in running.line()

    def test_a_failure_is_not_reported_as_finished(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(RuntimeError), Progress("capture", 10, "tokens"):
            raise RuntimeError
        assert capsys.readouterr().err == ""

    def test_threads_lose_no_count(self) -> None:
        running = Progress("capture", 8000, "tokens")
        with ThreadPoolExecutor(8) as pool:
            for _ in range(8000):
                pool.submit(running.advance, 1)
        assert running.done == 8000

    def test_quiet_says_nothing(self, capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
        set_up_logging(verbose=False, quiet=True)
        with Progress("capture", 10, "tokens") as running:
            clock.seconds += 100
            running.advance(10)
        assert capsys.readouterr().err == ""


class TestOnATerminal:
    def test_a_live_line_is_drawn_and_gives_way_to_the_closing_line(
        self, terminal: Terminal
    ) -> None:
        with redirect_stderr(terminal), Progress("capture", 1000, "tokens") as running:
            running.advance(500)
            running._live.refresh()
        assert LINE.search(terminal.getvalue())
        assert "\x1b[" in terminal.getvalue()
        erased, _, closing = terminal.getvalue().rpartition("capture: 500 tokens in 0 s")
        assert closing.startswith(" (")
        assert "\x1b[2K" in erased[[m.end() for m in LINE.finditer(erased)][-1] :]

    def test_a_narrow_terminal_gets_one_line(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "30")
        with redirect_stderr(terminal), Progress("capture", 1000, "tokens") as running:
            running._live.refresh()
            drawn = terminal.getvalue()
        assert "…" in drawn and "memory" not in drawn

    @pytest.mark.parametrize("silence", ["quiet", "dumb"])
    def test_no_live_line_with_quiet_or_where_it_cannot_be_redrawn(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, clock: Clock, silence: str
    ) -> None:
        set_up_logging(verbose=False, quiet=silence == "quiet")
        monkeypatch.setenv("TERM", "dumb")
        with redirect_stderr(terminal), Progress("capture", 10, "tokens") as running:
            clock.seconds += LOG_EVERY_SECONDS
            running.advance(5)
        assert "\x1b" not in terminal.getvalue()
        assert bool(LINE.match(terminal.getvalue())) == (silence == "dumb")

    def test_the_line_is_taken_down_after_a_failure(self, terminal: Terminal) -> None:
        with redirect_stderr(terminal):
            with pytest.raises(RuntimeError), Progress("capture", 10, "tokens"):
                raise RuntimeError
            assert sys.stderr is terminal
        assert " in 0 s" not in terminal.getvalue()

    def test_log_lines_stay_above_the_live_line_of_a_real_terminal(self) -> None:
        program = (
            "import time\n"
            "from sdlms.progress import LOGGER, Progress, set_up_logging\n"
            "set_up_logging(verbose=False, quiet=False)\n"
            "with Progress('capture', 100, 'tokens') as running:\n"
            "    running.advance(50)\n"
            "    time.sleep(0.4)\n"
            "    LOGGER.warning('a warning')\n"
            "print('stdout stays clean')\n"
        )
        done, drawn = run_on_terminal(program)
        assert done.returncode == 0
        assert done.stdout == b"stdout stays clean\n"
        assert LINE.search(drawn)
        assert "a warning\r\n" in drawn
        assert re.search(r"capture: 50 tokens in \d+ s", drawn)


def run_on_terminal(program: str) -> tuple[SimpleNamespace, str]:
    """Run a program whose stderr is a pseudo terminal; what it drew there."""
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    drawn = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux ends a pseudo terminal with EIO
            break
        if not chunk:
            break
        drawn += chunk
    os.close(ours)
    stdout, _ = process.communicate(timeout=30)
    return SimpleNamespace(returncode=process.returncode, stdout=stdout), drawn.decode()

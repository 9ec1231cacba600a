"""Run stages after one another, each as a child process.

A stage prints the path of the run that it made, or found complete: that is all that passes from one
step to the next. What is done is not done again, so a chain goes on where it was stopped.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, list_runs

# -P: else a folder `sdlms` or a file `random.py` where the user stands would be imported.
PROGRAM = (sys.executable, "-P", "-m", "sdlms")
REFERENCE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}(?=(/)?)")
BRACES = {"{{": "{", "}}": "}"}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Step:
    """One stage with its settings.

    Attributes:
        name: by which later steps name its run.
        stage: the command.
        arguments: flags with their values, in which `{name}` is an earlier step's run, and a
            doubled brace a brace.
    """

    name: str
    stage: str
    arguments: tuple[str, ...]

    @property
    def described(self) -> str:
        """Its name, and its stage where that is another word."""
        return self.name if self.name == self.stage else f"{self.name} ({self.stage})"

    @property
    def reads(self) -> list[str]:
        """The steps that it names, each once."""
        found = (REFERENCE.finditer(argument) for argument in self.arguments)
        names = (match[1] for matches in found for match in matches if match[1] is not None)
        return list(dict.fromkeys(names))

    def command(self, runs: Mapping[str, Path]) -> list[str]:
        """The words of its command line, behind `sdlms`.

        A run is named, not its path, so that the run's settings do not depend on the folder in
        which it was started; but a path where one goes on behind it (`{step}/tuned_lens`).

        Args:
            runs: of the steps that were done; others stay as they are written.
        """

        def filled(match: re.Match[str]) -> str:
            if match[1] is None:
                return BRACES[match[0]]
            if (run := runs.get(match[1])) is None:
                return match[0]
            return str(run) if match[2] else run.name

        return [self.stage, *(REFERENCE.sub(filled, argument) for argument in self.arguments)]


@dataclass(frozen=True)
class Done:
    """A step that was done."""

    step: Step
    run: Run
    how: Literal["made", "resumed", "reused"]
    seconds: float


class StepFailedError(Exception):
    """A step's process ended badly; what was wrong it has said itself.

    Attributes:
        step: which.
        code: its exit code, or the number of the signal that ended it, negative.
    """

    def __init__(self, step: Step, code: int) -> None:
        super().__init__(f"step {step.described}: exit code {code}")
        self.step, self.code = step, code


def run_chain(steps: Sequence[Step], artifacts: Path, talk: Sequence[str] = ()) -> Iterator[Done]:
    """Do one step after the other; those whose run is complete already are not done again.

    Args:
        steps: in order; a step reads earlier ones only.
        artifacts: the folder of all runs.
        talk: flags for all steps that change no result, such as `--quiet`.

    Yields:
        Each step when it is done.

    Raises:
        StepFailedError: a step ended badly; the steps behind it are not begun.
        KeyboardInterrupt: a signal asked for an end; the step was told, and has ended.
    """
    runs: dict[str, Path] = {}
    for number, step in enumerate(steps, 1):
        LOGGER.info(f"step {number} of {len(steps)}: {step.described}")
        common = (f"--artifacts={artifacts}", "--reuse", "--resume", *talk)
        complete = {run.name for run in list_runs(artifacts)}
        began = time.monotonic()
        run = Run(_path_printed(step, [*step.command(runs), *common]))
        runs[step.name] = run.path
        how: Literal["made", "resumed", "reused"] = "reused" if run.name in complete else "made"
        if how == "made" and run.all_of("resume"):
            how = "resumed"
        yield Done(step, run, how, time.monotonic() - began)


def _path_printed(step: Step, words: Sequence[str]) -> Path:
    """Run one command and give back the path that it prints last."""
    command = [*PROGRAM, *words]
    with _Stops() as stops:
        # Its own group, because a terminal sends Ctrl-C to all of the foreground group.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
        )
        stops.pass_on_to(process)
        printed, _ = process.communicate()
    if stops.seen:
        raise KeyboardInterrupt
    if process.returncode != 0:
        raise StepFailedError(step, process.returncode)
    return Path(os.fsdecode(printed.splitlines()[-1]))


class _Stops:
    """While it is open, what asks for an end is noted, and a child is told by SIGTERM.

    Not by SIGINT, which a child of a shell's background ignores. Signals that are ignored stay so.
    """

    def __init__(self) -> None:
        self.seen = False
        self._process: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def pass_on_to(self, process: "subprocess.Popen[bytes]") -> None:
        """Name the child; what came before this is passed on now."""
        self._process = process
        if self.seen:
            process.terminate()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if self._process is not None:
            self._process.terminate()

    def __enter__(self) -> Self:
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

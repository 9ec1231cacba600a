"""Kill a small stage at every system call that it makes, or start many at once; see what is left.

A program of its own, run by `test_run_writer.py`: it forks, which a process with threads must not,
and it gives up root's rights, before which no file is read-only. Prints one JSON line.

    python killing.py once | twice | together
"""

import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdlms.runs import writing
from sdlms.runs.reading import Run, list_runs, remove
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.files import write_atomically

CALLS = (
    "open", "write", "close", "mkdir", "rename", "replace", "chmod", "unlink", "rmdir",
    "ftruncate", "fsync", "scandir", "stat",
)  # fmt: skip
DATA = b"".join(bytes([number]) * 50 for number in range(3))
NOBODY = 65534


def stage(artifacts: Path, *, resume: bool = False) -> None:
    """Three blocks with a checkpoint behind each, then a table."""
    options = RunOptions(artifacts=artifacts, resume=resume)
    with RunWriter("tiny", {"seed": (0, 1)}, options) as out:
        decided = out.start({"data": ("d",)}, {"threads": os.getpid()})
        checkpoint, data = out.scratch / "blocks", out.path / "data.bin"
        done = int(checkpoint.read_bytes()) if checkpoint.exists() else 0
        if not data.exists():
            write_atomically(data, bytes(len(DATA)))
        for number in range(done, 3):
            with data.open("r+b") as file:
                file.seek(number * 50)
                file.write(DATA[number * 50 : number * 50 + 50])
            write_atomically(checkpoint, str(number + 1).encode())
            out.event("block", number=number, threads=decided["threads"])
        out.output("data.bin")
        (out.path / "tables").mkdir(exist_ok=True)
        write_atomically(out.path / "tables/t.csv", b"x\n1\n")
        out.output("tables/t.csv", columns=["x"])


def forked(action: Callable[[], None]) -> int:
    """Do it in a child process; its exit status as `os.wait` gives it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at(number: int, artifacts: Path, *, resume: bool = False) -> bool:
    """Whether the stage was killed before its system call `number`; a write is done by half."""

    def run() -> None:
        counter = itertools.count()
        for name in CALLS:
            setattr(os, name, counting(getattr(os, name), counter))
        stage(artifacts, resume=resume)

    def counting(call: Callable[..., Any], counter: "itertools.count[int]") -> Callable[..., Any]:
        def counted(*words: Any, **named: Any) -> Any:
            if next(counter) == number:
                if call is real_write:
                    real_write(words[0], words[1][: len(words[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*words, **named)

        return counted

    real_write = os.write
    return os.WIFSIGNALED(forked(run))


def problems(artifacts: Path) -> list[str]:
    """Resume what is left; whatever is not as promised afterwards."""
    found: list[str] = []
    left = list_runs(artifacts, partial=True)
    begun = [run for run in left if run.start]
    if not any(run.complete for run in left):
        if forked(lambda: stage(artifacts, resume=True)) != 0:
            return ["the resumed run failed"]
    complete = list_runs(artifacts)
    if len(complete) != 1:
        return [f"{len(complete)} published runs"]
    (run,) = complete
    found += verify(run)
    found += differences_in_content(run)
    if begun and [run.name] != [first.name for first in begun]:
        found.append("begun anew although there was something to resume")
    if begun and run.start["decided"] != begun[0].start["decided"]:
        found.append("decided anew")
    if any(record["threads"] != run.start["decided"]["threads"] for record in run.all_of("block")):
        found.append("not worked as decided")
    for rest in list_runs(artifacts, partial=True):
        if rest.name != run.name and rest.start:
            found.append(f"{rest.name} is left")
        remove(rest)
    return found + [f"{path.name} cannot be removed" for path in artifacts.iterdir()]


def differences_in_content(run: Run) -> list[str]:
    """What an undisturbed stage would have left otherwise."""
    found = []
    if (run.path / "data.bin").read_bytes() != DATA:
        found.append("other bytes")
    paths = [record["path"] for record in run.all_of("output")]
    if paths != ["data.bin", "tables/t.csv"]:
        found.append(f"outputs {paths}")
    everything = [run.path, *run.path.rglob("*")]
    return found + [f"{path} is writable" for path in everything if writable(path)]


def writable(path: Path) -> bool:
    """Whether anybody may write there, going by its mode."""
    return bool(path.stat().st_mode & 0o222)


def once(folder: Path) -> dict[str, Any]:
    """Killed at every call, one after the other."""
    found = {}
    for number in itertools.count():
        artifacts = folder / f"{number:04d}"
        artifacts.mkdir()
        killed = killed_at(number, artifacts)
        if bad := problems(artifacts):
            found[number] = bad
        if not killed:
            return {"kills": number, "problems": found}
    raise AssertionError


def twice(folder: Path) -> dict[str, Any]:
    """Killed, resumed and killed again, at random calls."""
    found, kills, dice = {}, 0, random.Random(0)
    for number in range(120):
        artifacts = folder / f"{number:04d}"
        artifacts.mkdir()
        calls = dice.randrange(130), dice.randrange(130)
        kills += killed_at(calls[0], artifacts)
        kills += killed_at(calls[1], artifacts, resume=True) if not list_runs(artifacts) else 0
        if bad := problems(artifacts):
            found[str(calls)] = bad
    return {"kills": kills, "problems": found}


def together(folder: Path) -> dict[str, Any]:
    """Many processes that start in the same second, beside a run of that second."""
    writing.datetime = OneSecond  # type: ignore[misc,assignment]
    stage(folder)
    begin = time.monotonic() + 0.3

    def run() -> None:
        while time.monotonic() < begin:
            pass
        for _ in range(3):
            stage(folder)

    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            run()
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    runs = list_runs(folder, partial=True)
    return {
        "codes": codes,
        "names": [run.name for run in runs],
        "problems": [line for run in runs for line in verify(run)],
        "writers": len({run.start["decided"]["threads"] for run in runs}),
    }


class OneSecond:
    """A clock that stands still."""

    @staticmethod
    def now(zone: object) -> Any:
        from datetime import UTC, datetime

        return datetime(2026, 11, 20, 14, 30, 22, tzinfo=UTC)


def give_up_root(folder: Path) -> None:
    """Become a user whom modes bind, where the folder can be reached as one."""
    reachable = all(parent.stat().st_mode & 0o001 for parent in folder.parents)
    if os.geteuid() == 0 and reachable:
        os.chown(folder, NOBODY, NOBODY)
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def main() -> None:
    """Run one of the three and print what was found."""
    writing.provenance = lambda: {"version": "0"}  # type: ignore[assignment]
    writing.package_version = lambda: "0"
    os.fsync = lambda descriptor: None  # type: ignore[assignment]  # a kill is no power cut
    with tempfile.TemporaryDirectory() as warm:
        stage(Path(warm))  # so that everything is imported while it can be read
    with tempfile.TemporaryDirectory() as folder:
        give_up_root(Path(folder))
        os.chdir(folder)
        action = {"once": once, "twice": twice, "together": together}[sys.argv[1]]
        print(json.dumps(action(Path(folder))))  # noqa: T201


if __name__ == "__main__":
    main()

"""Kill a run at some of its system calls, resume it, and see what is left.

A program of its own, as it forks, which a process with threads must not. A test asks it by
`killed_at` and `killed_chains`, which start it once for all tests of a process: importing takes
longer than a run. By itself it prints one JSON line on a folder that holds what the stage reads:

    python killing_stages.py N_CHAINS STAGE ARGUMENT ...
"""

import atexit
import functools
import gc
import importlib
import itertools
import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sdlms

CALLS = ("pwrite", "fsync", "rename", "replace", "mkdir", "write", "chmod", "unlink")
COUNTED = Path("calls")
SAID = Path("said-by-stages")
OTHERS = ("pydantic", "transformers.models.gpt_neox.modeling_gpt_neox")  # loaded when first used
LENS = ("sae_lens",)
BLOCK_TOKENS = 128  # a capture of a few hundred tokens has several blocks, with a checkpoint each


def import_all(*, lens: bool) -> None:
    """Whatever a stage may need, so that a child need not; sae-lens only where it is needed."""
    for module in pkgutil.walk_packages(sdlms.__path__, "sdlms."):
        if module.name != "sdlms.__main__":
            importlib.import_module(module.name)
    for name in OTHERS + LENS * lens:
        importlib.import_module(name)
    gc.freeze()  # a child would else copy all of it, page by page, when it collects garbage


def checkpoint_often(stage: str) -> None:
    """Behind every step or block, however short."""
    from sdlms.acts import capturing
    from sdlms.models import batching
    from sdlms.probes import stacks
    from sdlms.sae import encoding
    from sdlms.sae import training as sae_training

    for module in (stacks, encoding, sae_training):
        module.CHECKPOINT_SECONDS = 0.0  # type: ignore[attr-defined]
    if stage == "capture":
        capturing.BLOCK_TOKENS = batching.DEFAULT_BUDGET["cpu"] = BLOCK_TOKENS


def run_stage(arguments: list[str], fatal: int) -> bool:
    """Run the command line in a child that kills itself at a call; whether it was killed."""
    from sdlms.cli import main

    child = os.fork()
    if child == 0:
        counter = itertools.count(1)

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*words: Any, **named: Any) -> Any:
                if next(counter) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*words, **named)

            return counted

        os.fsync = lambda descriptor: None  # type: ignore[assignment]  # a kill is no power cut
        for name in CALLS:
            setattr(os, name, dying(getattr(os, name)))
        try:
            main(arguments)
        except SystemExit as stopped:
            COUNTED.write_text(str(next(counter)))
            sys.stdout.flush()
            os._exit(int(stopped.code or 0))
        except BaseException as error:  # noqa: BLE001
            print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command failed with {code}")
    return code != 0


def hashes(stage: str) -> list[dict[str, str]]:
    """Of every output, run by run."""
    from sdlms.runs.reading import list_runs

    runs = [run for run in list_runs(Path("artifacts")) if run.stage == stage]
    return [{r["path"]: r["sha256"] for r in run.all_of("output")} for run in runs]


def run_chains(n_chains: int, arguments: list[str]) -> dict[str, Any]:
    """Runs that are killed and resumed at random calls until they finish."""
    from sdlms.runs.reading import Run, list_runs

    run_stage(arguments, 0)
    n_calls, dice, kills = int(COUNTED.read_text()), random.Random(0), 0
    for _ in range(n_chains):
        killed = run_stage(arguments, dice.randrange(1, n_calls))
        while killed:
            kills += 1
            killed = run_stage([*arguments, "--resume"], dice.randrange(1, 2 * n_calls))
    found = hashes(arguments[0])
    unfinished = [r.name for r in list_runs(Path("artifacts"), partial=True) if not r.complete]
    resumed = [run for run in list_runs(Path("artifacts")) if Run(run.path).all_of("resume")]
    return {
        "calls": n_calls,
        "kills": kills,
        "resumed": len(resumed),
        "runs": len(found),
        "different": sum(each != found[0] for each in found),
        "unfinished": unfinished,
    }


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """What a request gives, in a process and a folder of its own."""
    os.chdir(request["folder"])
    with SAID.open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    checkpoint_often(request["arguments"][0])
    try:
        if request["n_chains"] is None:
            return {"found": run_stage(request["arguments"], request["fatal"])}
        return {"found": run_chains(request["n_chains"], request["arguments"])}
    except RuntimeError as error:
        return {"failed": f"{error}\n{SAID.read_text()}"}


def serve() -> None:
    """Answer requests, one JSON line each, until there are no more."""
    answers = os.dup(1)
    import_all(lens=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os.write(answers, json.dumps(answered(json.loads(line))).encode() + b"\n")
            finally:
                os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise RuntimeError(f"no answer to {line}")


@functools.cache
def server() -> "subprocess.Popen[str]":
    """This program in a process of its own, which ends with this one."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    command = [sys.executable, __file__, "serve"]
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    atexit.register(process.communicate)
    return process


def asked(folder: Path, arguments: tuple[object, ...], **how: int | None) -> Any:
    """What the server finds for a command line in a folder."""
    request = {"folder": str(folder), "arguments": [str(word) for word in arguments], **how}
    process = server()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    assert line, "the program that kills runs has ended"
    answer = json.loads(line)
    assert "failed" not in answer, answer["failed"]
    return answer["found"]


def killed_at(folder: Path, fatal: int, *arguments: object) -> bool:
    """Run the command line in a child that kills itself at its n-th call; 0: never.

    Whether it was killed. One that ends otherwise leaves their number in the file `calls`.
    """
    return bool(asked(folder, arguments, n_chains=None, fatal=fatal))


def killed_chains(folder: Path, n_chains: int, *arguments: object) -> dict[str, Any]:
    """Runs of a command line that are killed and resumed at random calls until they finish."""
    found: dict[str, Any] = asked(folder, arguments, n_chains=n_chains)
    return found


def main() -> None:
    """Serve, or answer one question."""
    if sys.argv[1] == "serve":
        return serve()
    import_all(lens=sys.argv[2] == "sae-train")
    checkpoint_often(sys.argv[2])
    print(json.dumps(run_chains(int(sys.argv[1]), sys.argv[2:])))  # noqa: T201
    return None


if __name__ == "__main__":
    main()

"""Kill a run at some of its system calls, resume it, and see what is left.

A program of its own, run by `test_probe_resume.py` and others in a folder that holds what the stage
reads: it forks, which a process with threads must not. Prints one JSON line.

    python killing_stages.py N_CHAINS STAGE ARGUMENT ...
"""

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sdlms.stages.probe  # so that a child need not import
import sdlms.stages.sae_latents
import sdlms.stages.sae_train  # noqa: F401
from sdlms.acts import opening  # noqa: F401
from sdlms.cli import main
from sdlms.dynamic import reading, sweeps, writing  # noqa: F401
from sdlms.explorer import tokens  # noqa: F401
from sdlms.lens import announcing, streaming, tables, text_ends, tuned_source  # noqa: F401
from sdlms.probes import mass_mean, sweep, training  # noqa: F401
from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunOptions  # noqa: F401
from sdlms.sae import finding, pairing  # noqa: F401

CALLS = ("pwrite", "fsync", "rename", "replace", "mkdir", "write", "chmod", "unlink")
COUNTED = Path("calls")


def run_stage(arguments: list[str], fatal: int) -> bool:
    """Run the command line in a child that kills itself at a call; whether it was killed."""
    child = os.fork()
    if child == 0:
        counter = itertools.count(1)

        def dying(call: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*words: Any, **named: Any) -> Any:
                if next(counter) == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*words, **named)

            return counted

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
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status != 0:
        raise RuntimeError(f"the command failed with {os.waitstatus_to_exitcode(status)}")
    return os.WIFSIGNALED(status)


def hashes(stage: str) -> list[dict[str, str]]:
    """Of every output, run by run."""
    runs = [run for run in list_runs(Path("artifacts")) if run.stage == stage]
    return [{r["path"]: r["sha256"] for r in run.all_of("output")} for run in runs]


def run_chains(n_chains: int, arguments: list[str]) -> dict[str, Any]:
    """Runs that are killed and resumed at random calls until they finish."""
    from sdlms.probes import stacks
    from sdlms.sae import encoding
    from sdlms.sae import training as sae_training

    for module in (stacks, encoding, sae_training):
        module.CHECKPOINT_SECONDS = 0.0  # type: ignore[attr-defined]
    if arguments[0] == "sae-train":
        import sae_lens  # noqa: F401
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


if __name__ == "__main__":
    print(json.dumps(run_chains(int(sys.argv[1]), sys.argv[2:])))  # noqa: T201

"""Which runs a report shows: those that are named, and all that these were made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sdlms.runs.folder import has_meta
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, list_runs
from sdlms.storage.files import sha256_of


class Input(NamedTuple):
    """What a run says it has read.

    Attributes:
        name: of the run, as it was called then.
        sha256: of its `meta.jsonl`.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class Lineage:
    """Runs by the sha256 of their `meta.jsonl`, which no two share.

    Attributes:
        runs: inputs before what reads them, older ones first.
        named: which were asked for.
        inputs: of each run, in the order they were read; some may not be at hand.
    """

    runs: dict[str, Run]
    named: tuple[str, ...]
    inputs: dict[str, tuple[Input, ...]]

    def place(self, digest: str) -> str:
        """Where the page shows a run."""
        return f"run-{list(self.runs).index(digest) + 1}"

    @property
    def absent(self) -> list[Input]:
        """Inputs that are not at hand, each once."""
        every = dict.fromkeys(each for inputs in self.inputs.values() for each in inputs)
        return [each for each in every if each.sha256 not in self.runs]

    @property
    def last(self) -> list[str]:
        """Runs that no other one of these reads: where a reader begins."""
        read = {each.sha256 for inputs in self.inputs.values() for each in inputs}
        return [digest for digest in self.runs if digest not in read]


def lineage_of(named: Sequence[Run]) -> Lineage:
    """Follow the inputs of complete runs, each looked for beside the run that read it.

    A folder that was renamed is found by the sha256 of its `meta.jsonl`.
    """
    found: dict[str, Run] = {}
    inputs: dict[str, tuple[Input, ...]] = {}
    asked = _by_digest(named)
    waiting = list(asked.items())
    while waiting:
        digest, run = waiting.pop()
        if digest in found:
            continue
        found[digest] = run
        inputs[digest] = tuple(dict.fromkeys(map(_input, run.all_of("input"))))
        waiting.extend(_at_hand(run, inputs[digest]))
    order = _inputs_first(found, inputs)
    return Lineage(
        {digest: found[digest] for digest in order},
        tuple(digest for digest in order if digest in asked),
        {digest: inputs[digest] for digest in order},
    )


def _by_digest(runs: Iterable[Run]) -> dict[str, Run]:
    """Runs by the sha256 of their `meta.jsonl`."""
    return {sha256_of(run.path / META): run for run in runs}


def _input(record: dict[str, str]) -> Input:
    """From an `input` record."""
    return Input(record["run"], record["sha256"])


def _at_hand(run: Run, inputs: Sequence[Input]) -> list[tuple[str, Run]]:
    """The inputs that lie beside a run, under their names or, renamed, under others."""
    named = [Run(run.path.parent / each.name) for each in inputs]
    there = _by_digest(each for each in named if has_meta(each.path))
    wanted = {each.sha256 for each in inputs}
    if not wanted <= set(there):
        there = _by_digest(list_runs(run.path.parent)) | there
    return [(digest, found) for digest, found in there.items() if digest in wanted]


def _inputs_first(runs: dict[str, Run], inputs: dict[str, tuple[Input, ...]]) -> list[str]:
    """An order in which every run follows what it reads, and older ones stand first."""
    left = sorted(runs, key=lambda digest: (runs[digest].age_key, digest))
    order: list[str] = []
    while left:
        ready = (
            digest for digest in left if not any(each.sha256 in left for each in inputs[digest])
        )
        order.append(next(ready))  # no run can read itself: it would have to know its own hash
        left.remove(order[-1])
    return order

"""Time several ways of doing the same work in alternating rounds, and report ratios with spread."""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import psutil

from sdlms.cli import ENVIRONMENT

PACKAGES = ("sdlms", "torch", "transformers", "h5py", "numpy", "transformer-lens", "sae-lens")


@dataclass
class Rounds:
    """Measured seconds of each side, one entry per round.

    Attributes:
        wall: by side.
        cpu: user and system seconds of this process with all its threads, by side.
        parts: wall seconds of named parts of a side, where it gave them.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, side: str, wall: float, cpu: float, parts: Mapping[str, float]) -> None:
        """Note one run of one side."""
        self.wall.setdefault(side, []).append(wall)
        self.cpu.setdefault(side, []).append(cpu)
        for name, seconds in parts.items():
            self.parts.setdefault(side, {}).setdefault(name, []).append(seconds)

    def cpu_medians(self) -> dict[str, float]:
        """CPU seconds of each side, rounded."""
        return {side: round(statistics.median(seconds), 3) for side, seconds in self.cpu.items()}


def set_environment() -> None:
    """What the command line sets, for both sides of every comparison; before torch is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


Work = Callable[[], Mapping[str, float] | None]


def alternate(
    sides: Mapping[str, Work], n_rounds: int, tidy: Callable[[], None] | None = None
) -> Rounds:
    """Run all sides once per round, in turned order every second round.

    Args:
        sides: what to time; the wall seconds of its parts may be returned. Warm them up before.
        n_rounds: how often.
        tidy: called after each run, outside the measured time.
    """
    rounds = Rounds()
    for number in range(n_rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            parts = sides[side]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            rounds.add(side, wall, cpu, parts or {})
            if tidy is not None:
                tidy()
    return rounds


def spread(values: list[float]) -> dict[str, float]:
    """Median with the smallest and the largest."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in found.items()}


def quotients(above: list[float], below: list[float]) -> list[float]:
    """Round by round, so that a slow phase of the machine hits both."""
    return [one / other for one, other in zip(above, below, strict=True)]


@dataclass
class Report:
    """What one benchmark found.

    Attributes:
        name: of the benchmark.
        unit: of the figures.
        figures: name to values, one per round.
        ratios: name to values, one per round.
        targets: by ratio, as the issue words it (`<= 1.10`); shown, never asserted.
        facts: whatever else identifies the work (tokens, documents, tolerances).
    """

    name: str
    unit: str = "s"
    figures: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add_rounds(self, rounds: Rounds) -> None:
        """Take over the wall and CPU seconds of every side and part."""
        for side, wall in rounds.wall.items():
            self.figures[side] = wall
            for part, seconds in rounds.parts.get(side, {}).items():
                self.figures[f"{side}: {part}"] = seconds
        self.facts["cpu_seconds"] = rounds.cpu_medians()

    def add_ratio(
        self, name: str, above: list[float], below: list[float], target: str = ""
    ) -> None:
        """One ratio, round by round."""
        self.ratios[name] = quotients(above, below)
        if target:
            self.targets[name] = target

    def text(self, size: str) -> str:
        """A table and one JSON line."""
        lines = ["", f"{self.name} ({size})"]
        for name, values in self.figures.items():
            lines.append(_line(name, spread(values), self.unit, ""))
        for name, values in self.ratios.items():
            lines.append(_line(name, spread(values), "x", self.targets.get(name, "")))
        return "\n".join([*lines, json.dumps(self.record(size))])

    def record(self, size: str) -> dict[str, Any]:
        """Everything, as the JSON line holds it."""
        return {
            "benchmark": self.name,
            "size": size,
            "unit": self.unit,
            "figures": {name: spread(values) for name, values in self.figures.items()},
            "ratios": {name: spread(values) for name, values in self.ratios.items()},
            "targets": self.targets,
            "facts": self.facts,
            "rounds": max((len(values) for values in self.figures.values()), default=0),
            "machine": machine(),
            "versions": versions(),
        }


def _line(name: str, found: dict[str, float], unit: str, target: str) -> str:
    """One row of the table."""
    number = "10.3f" if found["median"] < 1000 else "10,.0f"
    median = f"{found['median']:{number}} {unit:<5}"
    limits = f"{found['min']:{number}} .. {found['max']:{number}}"
    return f"  {name:<56}{median} ({limits})" + (f"   target {target}" if target else "")


def machine() -> dict[str, Any]:
    """The machine and how busy it was."""
    return {
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity() or [])
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(terse=True),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }


def _cpu_name() -> str:
    """The processor's own name where the system tells it."""
    path = "/proc/cpuinfo"
    if os.path.exists(path):  # noqa: PTH110
        with open(path) as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what takes part, where installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

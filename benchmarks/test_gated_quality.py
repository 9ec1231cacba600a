"""What each rule costs in perplexity at the same bytes, on the embedded model's held-out text.

Runs go through the real command line. The default rule is held against the original plan's, which
ranks neurons by their magnitude before the activation function.
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing import Report
from benchmarks.workload import Size, run_command
from sdlms.models.gating.rules import DEFAULT_RULE, RULES

KEEPS = ("0.1", "0.2", "0.3", "0.5", "0.7", "1.0")
FLAGS = {
    "full": ["--model", "sdlms-medium", "--max-tokens", "10000", "--seeds", "3"],
    "smoke": ["--model", "sdlms-small", "--max-tokens", "600", "--seeds", "1"],
}
ORIGINAL = "pre-abs"


def test_rules(size: Size, tmp_path: Path, publish: Callable[[Report], None]) -> None:
    """Excess perplexity of every rule; at keep 1 there is none."""
    rules = [name for name, rule in RULES.items() if rule.needs != "blocks"]
    flags = ["--rule", ",".join(rules), "--keep", ",".join(KEEPS), "--measure", "quality"]
    flags += ["--layers", "none", "--dtype", "float32"]
    run = run_command("dynamic-k", tmp_path, *flags, *FLAGS[size.name])
    with (run / "dynamic_k.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "all"]
    report = Report("excess perplexity by rule", unit="")
    excess: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["seed"] != "mean":
            key = row["rule"], row["k"]
            excess.setdefault(key, []).append(float(row["perplexity_ratio"]) - 1)
        elif float(row["k"]) < 1:
            saved = 100 * float(row["bytes_reduction_mlp"])
            report.facts[f"{row['rule']} {row['k']}"] = f"{saved:.0f} % of MLP bytes saved"
    for (rule, keep), values in excess.items():
        if float(keep) == 1:
            assert values == [0.0] * len(values)
        else:
            assert all(math.isfinite(value) for value in values)
            report.figures[f"{rule} {keep}"] = values
    for keep in KEEPS[:-1]:
        pair = excess[DEFAULT_RULE, keep], excess[ORIGINAL, keep]
        target = "<= 0.6" if keep == "0.1" else ""
        report.add_ratio(f"{DEFAULT_RULE} / {ORIGINAL} at {keep}", *pair, target)
    publish(report)

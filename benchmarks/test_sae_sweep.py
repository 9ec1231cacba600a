"""A sweep over coefficients against one run after another: shared reading, and successive halving.

Both read the same file and hold the same documents back. Members of the sweep must have the same
weights, bit by bit, as those that were trained alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.sae_sides import CPU, Data
from benchmarks.sae_sides import Shape as StepShape
from benchmarks.timing import Report, alternate
from benchmarks.workload import Size
from sdlms.acts import Acts, load_acts
from sdlms.models.device import set_threads
from sdlms.sae.documents import Budgets, documents_by_role
from sdlms.sae.members import members_of
from sdlms.sae.preparation import prepare
from sdlms.sae.pupil import Pupil
from sdlms.sae.selection import Rule
from sdlms.sae.settings import recipe_of
from sdlms.sae.sweep import Place, trained
from sdlms.sae.training import Course

LENGTH = 128  # tokens of a document


class Shape(NamedTuple):
    """How large the sweep is."""

    d_in: int
    width: int
    batch_size: int
    n_steps: int
    l1: tuple[float, ...]


SHAPES = {
    "full": Shape(128, 1024, 4096, 120, (0.3, 0.6, 1.2, 2.4)),
    "smoke": Shape(16, 64, 512, 40, (0.3, 0.6, 1.2, 2.4)),
}


@pytest.fixture(scope="module")
def saved_acts(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sparse sums of known directions, as a file of activations."""
    shape = SHAPES[size.name]
    step = StepShape(shape.d_in, shape.width, shape.batch_size, 1)
    rows = torch.cat(Data.drawn(step, 16).batches).half()
    n_documents = len(rows) // LENGTH
    tensor = rows[: n_documents * LENGTH].view(n_documents, 1, LENGTH, shape.d_in)
    path = tmp_path_factory.mktemp("acts") / "activations.h5"
    Acts(tensor, "blsh", mask=torch.ones(n_documents, LENGTH), layers=[0]).save(path)
    return path


def sweep(path: Path, shape: Shape, l1: tuple[float, ...], rule: Rule | None) -> list[Pupil]:
    """Read the file and train one member for each coefficient."""
    acts = load_acts(path)
    counts = np.full(acts.n_documents, LENGTH)
    documents = documents_by_role(counts, acts.document_tasks, 0, Budgets(10**9, 20 * LENGTH, 0))
    prepared = prepare(acts, documents, shape.batch_size, 0)
    recipe = recipe_of(
        "standard", (shape.d_in, shape.width), (shape.n_steps, shape.batch_size, 1e-3)
    )
    with TemporaryDirectory() as folder:
        return trained(
            members_of(recipe, [0], l1, [0]),
            prepared,
            Course(shape.n_steps, patience=0, screen_by=rule),
            Place(torch.float32, CPU, "auto"),
            Path(folder) / "checkpoint.safetensors",
        )


def test_a_sweep_against_single_runs(
    saved_acts: Path, size: Size, publish: Callable[[Report], None]
) -> None:
    """K members on one stream, and with --screen; K = 4."""
    threads = set_threads(0)
    shape, found = SHAPES[size.name], dict[str, list[Pupil]]()

    def singles() -> Mapping[str, float] | None:
        found["alone"] = [sweep(saved_acts, shape, (l1,), None)[0] for l1 in shape.l1]
        return None

    def together() -> Mapping[str, float] | None:
        found["together"] = sweep(saved_acts, shape, shape.l1, None)
        return None

    def screened() -> Mapping[str, float] | None:
        found["screened"] = sweep(saved_acts, shape, shape.l1, Rule("knee"))
        return None

    sides = {"K single runs": singles, "one sweep": together, "one sweep --screen": screened}
    rounds = alternate(sides, size.rounds)
    report = Report(f"sweep of {len(shape.l1)}, d {shape.d_in}, w {shape.width}, fp32")
    report.add_rounds(rounds)
    wall = rounds.wall
    report.add_ratio("one sweep / K single", wall["one sweep"], wall["K single runs"], "<= 1")
    report.add_ratio(
        "screened / K single", wall["one sweep --screen"], wall["K single runs"], "<= 0.6"
    )
    steps = {p.member.name: int(p.progress.curve[-1]["step"]) for p in found["screened"]}
    report.facts |= {"threads": threads, "steps of screened members": steps}
    publish(report)
    survivor = next(p for p in found["screened"] if p.progress.ended == "all steps")
    number = [p.member.name for p in found["alone"]].index(survivor.member.name)
    for one, other in zip(found["alone"], found["together"], strict=True):
        assert all(torch.equal(one.best[name], other.best[name]) for name in one.best)
    for name, tensor in survivor.best.items():
        assert torch.equal(tensor, found["alone"][number].best[name])

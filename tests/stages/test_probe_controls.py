"""What probes find is there: planted directions, controls, and tests that teach nothing."""

from pathlib import Path
from statistics import NormalDist, fmean

import numpy as np
import pytest
import torch

from sdlms.numerics.splits import TEST, grouped_split
from sdlms.probes.controls import CONTROLS
from sdlms.runs.reading import list_runs
from tests.acts.samples import Sample
from tests.stages.probe_runs import (
    FAST,
    LAYERS,
    SMALL,
    Cli,
    document_labels,
    newest,
    noise,
    of_documents,
    outputs,
    published,
    raised,
    table,
)

CLASSES = ("a", "b", "c")


def test_a_planted_direction_is_found_where_it_is(cli: Cli, work: Path) -> None:
    """AUROC is what the best possible probe has, and 0.5 on the layer of noise."""
    data = noise(400, n_tokens=4, n_units=3, layers=(0, 2))
    generator = np.random.default_rng(1)
    shift = 1.2  # of two normal classes with variance 1, after all tokens of a document moved
    document = generator.normal(size=(400, 3))
    document[:, 0] += shift * (np.arange(400) % 2)
    acts = torch.from_numpy(of_documents(data, np.arange(400)))
    moved = torch.from_numpy(document.astype(np.float32))[acts]
    published(work, Sample({0: data.acts[0], 2: moved}, data.rows))
    assert cli("probe", "--kinds", "logistic,mass_mean", "--seeds", 8, *SMALL) == 0
    bayes = NormalDist().cdf(shift / 2**0.5)
    for kind in ("logistic", "mass_mean"):
        rows = [row for row in table(newest(work)) if row["kind"] == kind]
        means = {n: fmean(float(r["auroc"]) for r in rows if r["layer"] == n) for n in ("0", "2")}
        assert means["2"] == pytest.approx(bayes, abs=0.04)
        assert means["0"] == pytest.approx(0.5, abs=0.06)


def test_controls_find_nothing(cli: Cli, work: Path) -> None:
    data = raised(noise(60, n_units=8), 1, 6.0)
    published(work, data)
    assert cli("probe", "--layers", 1, "--kinds", "logistic", "--seeds", 12, *SMALL) == 0
    rows = table(newest(work))
    aurocs = {
        kind: [float(row["auroc"]) for row in rows if row["kind"] == kind]
        for kind in ("logistic", *CONTROLS)
    }
    assert aurocs["logistic"] == [1.0] * 12
    assert fmean(aurocs["shuffled_labels"]) == pytest.approx(0.5, abs=0.08)
    # A random direction has a share of the shift; learned from training, it mostly points right.
    assert 0.5 < fmean(aurocs["random_direction"]) < 1


def test_shuffled_labels_of_a_small_class_never_leave_training_without_it(
    cli: Cli, work: Path
) -> None:
    """Dealt over all documents, all three of the class would be tested on by some seeds."""
    data = noise(40)
    path = document_labels(work / "few.csv", data, ["rare"] * 3 + ["usual"] * 37)
    published(work, data)
    assert cli("probe", "--labels", path.name, "--seeds", 9, "--layers", 1, *FAST) == 0
    rows = [row for row in table(newest(work)) if row["kind"] == "shuffled_labels"]
    assert len(rows) == 9
    assert not any(row["auroc"] == "nan" for row in rows)


@pytest.mark.parametrize("level", ["document", "token"])
def test_what_is_tested_on_has_no_say_in_what_is_learned(cli: Cli, work: Path, level: str) -> None:
    data = raised(noise(24, CLASSES), 1, 3.0)
    classes = np.array([CLASSES.index(task) for task in data.rows.document_tasks])
    tested = of_documents(data, grouped_split(np.arange(24), classes, 0) == TEST).astype(bool)
    other = {n: x.clone() for n, x in data.acts.items()}
    for acts in other.values():
        acts[torch.from_numpy(tested)] = acts[torch.from_numpy(tested)] * -50 + 7
    for sample in (data, Sample(other, data.rows)):
        published(work, sample)
        assert cli("probe", "--level", level, *SMALL) == 0
    _, one, _, two = (run.path for run in list_runs(work / "artifacts"))
    assert table(one) != table(two)
    hashes = [{k: v for k, v in outputs(run).items() if k[:7] == "probes/"} for run in (one, two)]
    assert len(hashes[0]) == 2 * len(LAYERS) * len(CLASSES) * (6 if level == "document" else 3)
    assert hashes[0] == hashes[1]

"""Probes that judge every token: which are read, where judgements land, how memory behaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts import load_acts
from sdlms.numerics.splits import TEST, TRAIN, grouped_split
from sdlms.probes.controls import CONTROLS
from sdlms.probes.saving import load_probe
from tests.acts.samples import Sample
from tests.stages.probe_runs import (
    LAYERS,
    SMALL,
    Cli,
    masked,
    newest,
    noise,
    predictions,
    published,
    table,
    write_labels,
)
from tests.stages.test_probe import assert_rows_agree_with_predictions

KINDS = ("logistic", "mlp", "mass_mean")
TOKENS = ["--level", "token", *SMALL]


def places_of(data: Sample) -> list[tuple[str, int]]:
    """Id and token of every row."""
    return [
        (name, token)
        for name, length in zip(data.rows.document_ids, data.rows.lengths, strict=True)
        for token in range(length)
    ]


def assert_saved_probes_say_the_same(run: Path, source: Path) -> None:
    acts = load_acts(source)
    for (layer, kind, seed, label), own in predictions(run).items():
        (path,) = (run / "probes" / kind).glob(f"layer_{layer}_seed_{seed}_label_?_{label}.json")
        found = load_probe(path.with_suffix("")).predict(acts.select_layers(int(layer)))
        places = [(int(r["document_id"], 16), int(r["token"])) for r in own]
        values = np.array([float(found[place]) for place in places])
        written = np.array([float(r["probability"]) for r in own])
        np.testing.assert_allclose(values, written, rtol=1e-5, atol=1e-6)


def test_labels_of_documents_are_those_of_their_tokens(cli: Cli, work: Path) -> None:
    data = noise(20, ("a", "b", "c"))
    mask = np.random.default_rng(0).random(data.rows.n_tokens) > 0.3
    data = masked(data, mask)
    source = published(work, data)
    assert cli("probe", "--seeds", 2, *TOKENS) == 0
    run = newest(work)
    rows = table(run)
    assert len(rows) == len(LAYERS) * (len(KINDS) + len(CONTROLS)) * 2 * 3
    assert_rows_agree_with_predictions(run)
    assert_saved_probes_say_the_same(run, source.path)

    tasks = data.rows.document_tasks
    kept = [place for place, is_read in zip(places_of(data), mask, strict=True) if is_read]
    classes = np.array(["abc".index(task) for task in tasks])
    for (_, _, seed, label), own in predictions(run).items():
        roles = grouped_split(np.arange(20), classes, int(seed))
        expected = [(i, t) for i, t in kept if roles[int(i, 16)] == TEST]
        assert [(r["document_id"], int(r["token"])) for r in own] == expected
        assert all((r["target"] == "1") == (tasks[int(r["document_id"], 16)] == label) for r in own)
    n_trained = sum(grouped_split(np.arange(20), classes, 1)[int(i, 16)] == TRAIN for i, _ in kept)
    assert {r["n_train"] for r in rows if (r["kind"], r["seed"]) == ("mlp", "1")} == {
        str(n_trained)
    }


def test_single_tokens_have_labels_and_most_have_none(cli: Cli, work: Path) -> None:
    """A class that is nowhere the most frequent one, on tokens in any order of the table."""
    data = noise(40, n_tokens=7)
    generator = np.random.default_rng(0)
    places = places_of(data)
    truth = np.zeros(len(places), dtype=bool)
    for document, first in enumerate(data.rows.offsets[:-1]):
        truth[first + 1 + document % 4] = document % 5 > 0
    acts = data.acts[3].clone()
    acts[torch.from_numpy(truth), 1] += 5
    data = Sample({**data.acts, 3: acts}, data.rows)
    labelled = generator.permutation(np.flatnonzero(generator.random(len(places)) > 0.2))
    rows = [(*places[i], "found" if truth[i] else "nothing") for i in labelled]
    path = write_labels(work / "labels.csv", rows, "document_id,token,label")
    source = published(work, data)
    assert cli("probe", "--labels", path.name, "--seeds", 3, *TOKENS) == 0
    run = newest(work)
    by_place = {(name, token): label for name, token, label in rows}
    for row in table(run, "predictions.csv"):
        label = by_place[row["document_id"], int(row["token"])]
        assert row["label"] == "nothing"
        assert (row["target"] == "1") == (label == "nothing")
    for row in table(run):
        if row["kind"] in KINDS and row["layer"] == "3":
            assert float(row["auroc"]) > 0.96, row
        if row["kind"] == "shuffled_labels":
            assert 0.2 < float(row["auroc"]) < 0.8, row
    assert_rows_agree_with_predictions(run)
    assert_saved_probes_say_the_same(run, source.path)
    assert (
        "tokens of 40 documents (found " in (run / "logs/run.log").read_text()
    )  # as many as are labelled


MEMORY = """
import json, sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from sdlms.acts import load_acts
from sdlms.probes.kinds import KINDS
from sdlms.probes.network import Schedule
acts = load_acts(Path(sys.argv[1])).select_layers(1)
probe_class = KINDS[sys.argv[2]].probe_class()
y = torch.arange(acts.n_documents) % 2 == 0
if sys.argv[2] == "mlp":
    from sdlms.probes.mlp import MlpSettings
    probe = probe_class(MlpSettings(max_epochs=2))
else:
    probe = probe_class()
probe.fit(acts, y)
status = Path("/proc/self/status").read_text()
print(json.dumps(int(status.split("VmHWM:")[1].split()[0]) * 1024))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_memory_does_not_grow_with_the_number_of_tokens(work: Path, kind: str) -> None:
    """8 x tokens are 100 MB more activations, in float32; both fit in a little more than torch."""
    # Otherwise glibc keeps what was freed, in holes: some 70 MB at 32 x the tokens, then no more.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    peaks = []
    for n_documents in (160, 1280):
        data = noise(n_documents, n_tokens=200, n_units=128, layers=(1,))
        source = published(work / str(n_documents), data)
        command = [sys.executable, "-c", MEMORY, str(source.path), kind]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        peaks.append(json.loads(done.stdout))
    assert peaks[1] < 1.15 * peaks[0]

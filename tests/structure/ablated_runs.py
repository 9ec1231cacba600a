"""Runs whose units are ablated: real captures, real latents of random autoencoders."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sdlms.cli import main
from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.saving import folder_of
from sdlms.storage.tables import write_table
from sdlms.structure.ablated_site import check_ablatable
from sdlms.structure.ablation import Ablation, Compute
from tests.stages.sae_runs import SELECTED, UNSCREENED, random_dictionary, write_dictionary

COMPUTE = Compute(torch.device("cpu"), torch.float32)
EXACT = ("--dtype", "float32", "--store-dtype", "float32", "--threads", 1, "--quiet")
WIDTH = 40


def sdlms(folder: Path, stage: str, *arguments: object) -> Run:
    """The run that a command makes under `folder`."""
    words = [stage, *arguments, "--artifacts", folder / "artifacts"]
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert not stopped.value.code
    return list_runs(folder / "artifacts")[-1]


def captured(folder: Path, model: Path | str, *arguments: object) -> Run:
    """A capture of questions and sums, the first two tokens of each document of mask 0."""
    tasks = ("--tasks", "qa,math", "--max-tokens", 400, "--skip-first", 2)
    return sdlms(folder, "capture", "--model", model, *tasks, *EXACT, *arguments)


def texts_captured(
    folder: Path, model: Path, texts: Mapping[str, Sequence[str]], *arguments: object
) -> Run:
    """A capture of other texts, by task."""
    lines = []
    for task, own in texts.items():
        records = "".join(json.dumps({"text": text}) + "\n" for text in own)
        (folder / f"{task}.jsonl").write_text(records)
        lines.append(json.dumps({"task": task, "file": f"{task}.jsonl"}) + "\n")
    manifest = folder / "texts.jsonl"
    manifest.write_text("".join(lines))
    words = ("--model", model, "--tasks", manifest, *EXACT)
    return sdlms(folder, "capture", *words, *arguments)


def latents_of_folder(folder: Path, acts: Run, layer: int, n_units: int = 24) -> Run:
    """Latents of one random autoencoder, which lies in a folder."""
    sae = write_dictionary(folder / "one-sae", random_dictionary(layer, n_units, WIDTH))
    words = ("--sae", sae, "--acts", acts.path, "--site", "resid_post", "--layers", layer)
    return sdlms(folder, "sae-latents", *words, "--threads", 1, "--quiet")


def latents_of_run(folder: Path, acts: Run, layers: Sequence[int], n_units: int = 24) -> Run:
    """Latents of random autoencoders, which lie in a run."""
    options = RunOptions(artifacts=folder / "artifacts", label="untrained")
    rows: list[dict[str, Any]] = []
    with RunWriter("sae-train", {"seed": 0, "tokens": 1000}, options) as out:
        out.start({"model": acts.start["resolved"]["model"], "acts": acts.name}, {})
        out.input(acts)
        for layer in layers:
            name = folder_of("resid_post", layer, SELECTED)
            write_dictionary(out.path / name, random_dictionary(layer, n_units, WIDTH))
            for file in sorted((out.path / name).iterdir()):
                out.output(f"{name}/{file.name}")
            identity = {"site": "resid_post", "layer": layer, "member": SELECTED, "seed": 0}
            rows.append({**identity, **UNSCREENED, "coefficient": 1.0, "selected": 1, "l0": 3.5})
        write_table(out.path / "sae.csv", list(rows[0]), rows)
        out.output("sae.csv", columns=list(rows[0]))
    return sdlms(folder, "sae-latents", "--sae", out.path.name, "--threads", 1, "--quiet")


def stored(run: Run, name: str) -> NDArray[Any]:
    """A data set of the run's activations."""
    with h5py.File(run.path / "activations.h5") as file:
        found: NDArray[Any] = file[name][:]
        return found


def chosen_units(n_units: int, *tasks: Sequence[int]) -> dict[str, NDArray[Any]]:
    """As a specialization has them, if these units were the specialized ones of each task."""
    found: dict[str, NDArray[Any]] = {
        "SI_adjusted": np.zeros(n_units),
        "q": np.ones(n_units),
        "preferred_task": np.zeros(n_units, dtype=np.int64),
        "fired": np.full(n_units, 100),
        "dead": np.zeros(n_units, dtype=bool),
        "rare": np.zeros(n_units, dtype=bool),
    }
    for task, own in enumerate(tasks):
        found["SI_adjusted"][list(own)], found["q"][list(own)] = 0.9, 0.001
        found["preferred_task"][list(own)] = task
    return found


def ablation_of(
    run: Run,
    layers: Sequence[int],
    site: str | None = None,
    *,
    tokens: int = 100_000,
    seed: int = 0,
    compute: Compute = COMPUTE,
) -> Ablation:
    """Of all tasks of a run."""
    found = check_ablatable(run, site, layers)
    names = tuple(dict.fromkeys(found.rows.document_tasks))
    return Ablation(found, names, tokens, seed, compute, lambda _: None)

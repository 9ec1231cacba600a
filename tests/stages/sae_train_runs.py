"""Small captures to train on, and what an sae-train run says of them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdlms.acts import load_acts
from sdlms.acts.flattening import TokenRows, token_rows
from sdlms.runs.reading import Run, list_runs
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.sae.saving import folder_of
from tests.acts.samples import SITE, Sample, rows_with, write_sample
from tests.stages.probe_runs import LAYERS, N_LAYERS, Cli, table

QUIET = ["--threads", "1", "--quiet"]
# 12 updates of two members, nothing of the model.
SHORT = ["--batch-size", 32, "--tokens", 384, "--l1", 0.3, "--ce-tokens", 0, *QUIET]
SHORT_K = ["--batch-size", 32, "--tokens", 384, "--k", 4, "--ce-tokens", 0, *QUIET]
GONE = "the-folder-of-no-model"


def sparse_data(
    n_documents: int = 30, length: int = 12, n_units: int = 8, layers: tuple[int, ...] = LAYERS
) -> Sample:
    """Sums of few of 12 directions; the first token of each document has mask 0."""
    random = torch.Generator().manual_seed(n_documents)
    acts = {}
    for layer in layers:
        truth = torch.nn.functional.normalize(torch.randn(12, n_units, generator=random), dim=-1)
        strength = torch.rand(n_documents * length, 12, generator=random)
        active = torch.rand(n_documents * length, 12, generator=random) < 0.2
        acts[layer] = (strength * active) @ truth + 0.5
    mask = np.arange(n_documents * length) % length > 0
    return Sample(acts, rows_with([length] * n_documents, mask))


def planted(work: Path, data: Sample | None = None, site: str = SITE) -> Run:
    """A complete capture run with chosen activations, of a model that is gone."""
    model = {
        "name": "tiny",
        "folder": str(work / GONE),
        "revision": None,
        "commit": None,
        "reinit_seed": None,
        "n_layers": N_LAYERS,
        "config": {},
        "weights": {},
        "tokenizer": {},
    }
    options = RunOptions(artifacts=work / "artifacts", label="planted")
    with RunWriter("capture", {"seed": 0}, options) as out:
        out.start({"model": model, "control": "none"}, {})
        write_sample(out.path / "activations.h5", sparse_data() if data is None else data, site)
        out.output("activations.h5")
    return Run(out.path)


def captured(cli: Cli, work: Path, model: object, *words: object) -> Run:
    """A real capture, of two tasks."""
    tokens = () if "--max-tokens" in words else ("--max-tokens", 900)
    source = ["--model", model, "--tasks", "qa,math", *tokens]
    assert cli("capture", *source, *words, *QUIET) == 0
    return Run(list_runs(work / "artifacts")[-1].path)


def trained_runs(work: Path) -> list[Run]:
    """Every sae-train run, unfinished ones too."""
    runs = list_runs(work / "artifacts", partial=True)
    return [run for run in runs if run.stage == "sae-train"]


def members(run: Path) -> list[tuple[dict[str, str], Path]]:
    """Each row of `sae.csv`, and the folder of its member."""
    return [
        (row, run / folder_of(row["site"], int(row["layer"]), row["member"]))
        for row in table(run, "sae.csv")
    ]


def by_split(run: Path) -> dict[str, list[str]]:
    """Ids of documents by what they were for; those measured on are named `measured`, too."""
    found: dict[str, list[str]] = {}
    for row in table(run, "documents.csv"):
        found.setdefault(row["split"], []).append(row["document_id"])
        if row["measured"] == "1":
            found.setdefault("measured", []).append(row["document_id"])
    return found


def rows_of(capture: Run, site: str, ids: list[str]) -> tuple[list[int], TokenRows]:
    """The layers of a capture, and its tokens of mask 1 in some documents."""
    acts = load_acts(capture, site)
    chosen = [i for i, name in enumerate(acts.document_ids) if name in set(ids)]
    return list(acts.layers), token_rows(acts.slice_batch(chosen))


def by_lens(folder: Path, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstructions by sae-lens, float32."""
    sae = loaded_by_lens(folder)
    with torch.no_grad():
        latents = sae.encode(rows.float())
        return latents, sae.decode(latents)


def fvu_and_l0(folder: Path, rows: Tensor, training: Tensor) -> tuple[float, float]:
    """By sae-lens and plain torch, on `[row, unit]`; the mean is that of the training rows."""
    latents, outputs = by_lens(folder, rows)
    mean = training.double().mean(dim=0)
    error = (rows.double() - outputs.double()).square().sum()
    total = (rows.double() - mean).square().sum()
    return float(error / total), float((latents > 0).sum(dim=1).double().mean())


def finite_weights(folder: Path) -> bool:
    """Whether no tensor below a folder holds NaN or infinity."""
    from safetensors.torch import load_file

    files = sorted(folder.rglob("*.safetensors"))
    return all(bool(t.isfinite().all()) for file in files for t in load_file(file).values())

"""Published sae-train runs with tables that look like real ones; no autoencoder is behind them."""

from pathlib import Path
from typing import Any

import numpy as np

from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.measuring import COLUMNS
from sdlms.storage.flat import FlatWriter
from sdlms.storage.latents import (
    COLUMNS as ARRAYS,
)
from sdlms.storage.latents import (
    N_TOP,
    LatentsHeader,
    LatentsMember,
    create_latents,
    write_member,
)
from sdlms.storage.tables import write_table

SITE, WIDTH = "resid_post", 8
COEFFICIENTS = (4.0, 8.0, 32.0)
TAKEN = 8.0
TOKENIZER = {"tokenizer.json": "abc"}
TASKS = ("qa", "math")  # of documents 0, 2, 4 ... and 1, 3, 5 ...
N_DOCUMENTS = 12


def fvu_of(coefficient: float, seed: int) -> float:
    """Falls with the coefficient."""
    return 2 / coefficient + seed / 100


def sae_run(
    artifacts: Path, layers: tuple[int, ...] = (1, 2), screened: float | None = None
) -> Run:
    """Two seeds of each coefficient and layer; of `TAKEN` the first seed was taken."""
    members = [
        (LatentsMember(SITE, layer, f"k_{coefficient:g}_seed{seed}"), coefficient, seed)
        for layer in layers
        for coefficient in COEFFICIENTS
        for seed in (0, 1)
    ]
    header = LatentsHeader(
        model="small",
        revision="",
        sae="",
        widths={member: WIDTH for member, _, _ in members},
        document_ids=[f"{number:016x}" for number in range(N_DOCUMENTS)],
        document_tasks=[TASKS[number % 2] for number in range(N_DOCUMENTS)],
    )
    resolved = {"model": {"name": "small", "tokenizer": TOKENIZER}, "control": "none"}
    with RunWriter("sae-train", {}, RunOptions(artifacts=artifacts)) as out:
        out.start(resolved, {})
        rows = [_row(*each, screened=each[1] == screened) for each in members]
        write_table(out.path / "sae.csv", COLUMNS, rows)
        out.output("sae.csv", columns=COLUMNS)
        create_latents(out.path / "latents.h5", header)
        with FlatWriter(out.path / "latents.h5") as writer:
            for number, (member, _, _) in enumerate(members):
                write_member(writer, header, member, arrays_of(header, member, number))
        out.output("latents.h5")
    return Run(out.path)


def _row(member: LatentsMember, coefficient: float, seed: int, screened: bool) -> dict[str, Any]:
    """A row of `sae.csv`."""
    fvu = fvu_of(coefficient, seed)
    return dict.fromkeys(COLUMNS) | {
        "site": member.site,
        "layer": member.layer,
        "member": member.name,
        "selected": int((coefficient, seed) == (TAKEN, 0)),
        "screened": int(screened),
        "architecture": "topk",
        "coefficient": coefficient,
        "seed": seed,
        "fvu": fvu,
        "fvu_low": fvu - 0.03,
        "fvu_high": fvu + 0.01,
        "l0": coefficient,
        "pca_fvu": fvu / 2,
    }


def arrays_of(header: LatentsHeader, member: LatentsMember, number: int) -> dict[str, Any]:
    """Latent n fires in 10 - n documents, from document n on; all but those of the first task.

    Of latents with an even number most firings are in the first task.
    """
    arrays = {
        name: np.zeros(shape, ARRAYS[name].dtype) for name, shape in header.shapes(member).items()
    }
    arrays["firing_rate"][:] = 0.01 * (1 + np.arange(WIDTH))
    for latent in range(WIDTH):
        share = 20 + latent
        arrays["task_counts"][:, latent] = (share, 5) if latent % 2 == 0 else (5, share)
        held = N_TOP - latent
        arrays["top_activation"][latent, :held] = 9.5 - np.arange(held)
        arrays["top_document"][latent] = -1
        arrays["top_document"][latent, :held] = (latent + np.arange(held)) % N_DOCUMENTS
        arrays["top_position"][latent, :held] = 2
    arrays["log_density_count"][:] = number
    arrays["log_density_count"][0] = 3
    return arrays

"""Small published sae-train runs, laid out as the stage does; nothing in them is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.dictionary import Dictionary, config_of
from sdlms.sae.saving import folder_of
from sdlms.storage.sae_files import write_sae
from sdlms.storage.tables import write_table
from tests.acts.samples import SITE
from tests.stages.probe_runs import LAYERS, N_LAYERS

MODEL = {"name": "tiny", "n_layers": N_LAYERS}
SELECTED, OTHER = "l1_1_seed0", "l1_3_seed0"
WIDTH = 16
UNSCREENED = {"screened": 0, "steps": 50, "best_step": 40, "ended": ""}


def random_dictionary(seed: int, n_units: int = 5, width: int = WIDTH) -> Dictionary:
    """A standard one in which about a fourth of the latents is active, and the last one never."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(width, n_units, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    bias = torch.full((width,), -0.6)
    bias[-1] = -1e6
    tensors = {
        "W_enc": decoder.T.contiguous(),
        "W_dec": decoder,
        "b_enc": bias,
        "b_dec": torch.randn(n_units, generator=generator) / 10,
    }
    return Dictionary(architecture="standard", tensors=tensors)


def write_dictionary(folder: Path, dictionary: Dictionary) -> Path:
    """As sae-lens has it."""
    arrays = {name: tensor.numpy() for name, tensor in dictionary.tensors.items()}
    write_sae(folder, arrays, config_of(dictionary, {}))
    return folder


def sae_trained(
    work: Path,
    acts: Run | None,
    layers: Sequence[int] = LAYERS,
    sites: Sequence[str] = (SITE,),
    model: dict[str, Any] | None = None,
    widths: Sequence[int] = (WIDTH, WIDTH),
) -> Run:
    """A complete sae-train run with two members in each layer, the first of which was selected."""
    options = RunOptions(artifacts=work / "artifacts", label="untrained")
    rows: list[dict[str, Any]] = []
    with RunWriter("sae-train", {"seed": 0, "tokens": 1000}, options) as out:
        resolved = {"model": MODEL if model is None else model}
        out.start({**resolved, "acts": None if acts is None else acts.name}, {})
        if acts is not None:
            out.input(acts)
        for site in sites:
            for layer, width in zip(layers, widths, strict=False):
                for member in (SELECTED, OTHER):
                    name = folder_of(site, layer, member)
                    write_dictionary(out.path / name, of_member(layer, member, width=width))
                    for file in sorted((out.path / name).iterdir()):
                        out.output(f"{name}/{file.name}")
                    chosen = {"selected": int(member == SELECTED), "fvu": 0.5, "l0": 3.5}
                    training = {"coefficient": float(member[3]), "seed": 0, **UNSCREENED}
                    rows.append(
                        {"site": site, "layer": layer, "member": member, **training, **chosen}
                    )
        columns = list(rows[0])
        write_table(out.path / "sae.csv", columns, rows)
        out.output("sae.csv", columns=columns)
        write_table(out.path / "documents.csv", ("document_id", "split"), [])
        out.output("documents.csv", columns=("document_id", "split"))
    return Run(out.path)


def of_member(layer: int, member: str, n_units: int = 5, width: int = WIDTH) -> Dictionary:
    """The autoencoder of a layer and member."""
    return random_dictionary(2 * layer + (member == OTHER), n_units, width)

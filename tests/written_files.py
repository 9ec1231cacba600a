"""What the code writes: columns of every table, data sets and attributes of every HDF5 file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from sdlms.storage.activations import Header, create_activations
from sdlms.storage.counts import create_counts
from sdlms.storage.latents import LatentsHeader, LatentsMember, create_latents
from sdlms.storage.lens_file import LensHeader, create_lens
from sdlms.storage.rows import Rows
from sdlms.storage.sparse_acts import Entries, SparseAppender, SparseHeader, assemble

File = tuple[str, str]  # stage, name
SITE, LAYER, MEMBER = "resid_post", 3, "k_2_seed0"


def table_columns() -> Mapping[File, Sequence[str]]:
    """The columns that each stage declares of its tables."""
    from sdlms.acts import sparsity
    from sdlms.dynamic import latent_rows, specialist_rows
    from sdlms.dynamic import tables as gating
    from sdlms.lens import tables as lens
    from sdlms.probes import scoring
    from sdlms.sae import ground, measuring, pupil
    from sdlms.scaling import joining, trends
    from sdlms.stages import sae_latents
    from sdlms.structure import ablation_rows, enrichment
    from sdlms.structure import tables as structure

    return {
        ("capture", "sparsity.csv"): sparsity.COLUMNS,
        ("sae-train", "sae.csv"): measuring.COLUMNS,
        ("sae-train", "documents.csv"): ground.DOCUMENT_COLUMNS,
        ("sae-train", "reconstruction_loss.csv"): pupil.CURVE_COLUMNS,
        ("sae-latents", "sae_latents.csv"): sae_latents.COLUMNS,
        ("si-modularity", "si_modularity.csv"): structure.COLUMNS,
        ("si-modularity", "units.csv"): structure.UNIT_COLUMNS,
        ("si-modularity", "controls.csv"): structure.CONTROL_COLUMNS,
        ("si-modularity", "thresholds.csv"): structure.CURVE_COLUMNS,
        ("si-modularity", "communities.csv"): structure.COMMUNITY_COLUMNS,
        ("si-modularity", "community_tasks.csv"): enrichment.COLUMNS,
        ("si-modularity", "resolutions.csv"): structure.RESOLUTION_COLUMNS,
        ("si-modularity", "ablation.csv"): ablation_rows.COLUMNS,
        ("si-modularity", "ablation_matrix.csv"): ablation_rows.MATRIX_COLUMNS,
        ("dynamic-k", "dynamic_k.csv"): gating.COLUMNS,
        ("dynamic-k", "critical.csv"): gating.CRITICAL_COLUMNS,
        ("dynamic-k", "specialized_units.csv"): specialist_rows.COLUMNS,
        ("dynamic-k", "latents.csv"): latent_rows.COLUMNS,
        ("logit-lens", "logit_lens.csv"): lens.COLUMNS,
        ("logit-lens", "targets.csv"): lens.TARGET_COLUMNS,
        ("probe", "probe.csv"): scoring.COLUMNS,
        ("probe", "predictions.csv"): scoring.PREDICTION_COLUMNS,
        ("scaling", "scaling.csv"): joining.COLUMNS,
        ("scaling", "trends.csv"): trends.COLUMNS,
    }


def hdf5_contents(folder: Path) -> dict[File, tuple[dict[str, str], set[str]]]:
    """Of each HDF5 file that a stage writes the types of data sets, and the attributes.

    Sites, layers, members and lenses are named as the page names them, `<site>` and so on.

    Args:
        folder: is written into.
    """
    ids = np.arange(3, dtype=np.int32)
    mask, offsets = np.ones(3, np.uint8), np.array([0, 2, 3], dtype=np.int64)
    rows = Rows(ids, mask, offsets, ["a" * 16, "b" * 16], ["math", "qa"])
    key = SITE, LAYER
    header = Header("m", "", {key: 4}, {SITE: "bfloat16"}, "gelu", gated=False)
    create_activations(folder / "activations.h5", header, rows)
    create_counts(folder / "counts.h5", {key: 4}, rows, [0])
    member = LatentsMember(SITE, LAYER, MEMBER)
    latents = LatentsHeader("m", "", "", {member: 5}, rows.document_ids, rows.document_tasks)
    create_latents(folder / "latents.h5", latents)
    lens = LensHeader(
        *("m", "", 4, ("logit",), ((SITE, LAYER),), 2),
        targets=((1, "x"),),
        vocabulary=("x", "y", "z"),
        dtype="float32",
        unembed="float32",
    )
    create_lens(folder / "lens.h5", lens, rows)
    _write_sparse(folder, rows)
    files = [
        *(("capture", "activations.h5"), ("capture", "counts.h5"), ("sae-train", "latents.h5")),
        *(("sae-latents", "sparse_acts.h5"), ("logit-lens", "lens.h5")),
    ]
    return {file: _contents(folder / file[1]) for file in files}


def _write_sparse(folder: Path, rows: Rows) -> None:
    """One latent of each token."""
    appender = SparseAppender(folder, LAYER, 0, 0)
    ones = np.ones(rows.n_tokens, np.int32)
    appender.append(Entries(ones, ones, ones.astype(np.float32)))
    appender.sync()
    header = SparseHeader("m", "", SITE, 4, {LAYER: MEMBER}, "run")
    assemble(folder / "sparse_acts.h5", header, rows, folder)


def _contents(path: Path) -> tuple[dict[str, str], set[str]]:
    """What one file holds."""
    names = {SITE: "<site>", f"layer_{LAYER}": "layer_<n>", MEMBER: "<member>", "logit": "<lens>"}
    datasets: dict[str, str] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            parts = [names.get(part, part) for part in re.split("/", name)]
            datasets["/" + "/".join(parts)] = item.dtype.str if _is_text(item) else item.dtype.name

    with h5py.File(path) as file:
        file.visititems(note)
        return datasets, set(file.attrs)


def _is_text(item: h5py.Dataset) -> bool:
    """Whether it holds bytes of one length."""
    return bool(item.dtype.kind == "S")

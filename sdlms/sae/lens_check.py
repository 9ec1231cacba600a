"""Does sae-lens load what was written, and do the same with it?"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlms.sae.dictionary import Dictionary, load_dictionary
from sdlms.storage.sae_files import read_sae

MOST_RELATIVE_DIFFERENCE = 1e-5


@contextmanager
def without_traces() -> Iterator[None]:
    """A block that imports sae-lens (4 s), after which the process is as quiet or loud as before.

    The import warns of its own old imports, adds filters of warnings, and lets transformers log
    errors only.
    """
    transformers = logging.getLogger("transformers")
    level = transformers.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.setLevel(level)


def check_loads(folder: Path, acts: Tensor) -> None:
    """sae-lens loads an SAE as it lies there, and encodes and decodes like `load_dictionary`.

    Args:
        folder: in sae-lens' format.
        acts: `[row, unit]`, activations to compare on.

    Raises:
        UserError: as `load_dictionary`.
        ValueError: weights are not bit-equal, metadata is lost, or outputs differ by more than
            1e-5 of their largest value; it says which.
    """
    ours = load_dictionary(folder)
    theirs = loaded_by_lens(folder)
    weights = theirs.state_dict()
    for name, tensor in ours.tensors.items():
        if name not in weights or not torch.equal(weights[name], tensor):
            raise ValueError(f"{folder}: sae-lens loads another {name}")
    _, config, _ = read_sae(folder)
    if theirs.cfg.metadata.to_dict() != config.get("metadata"):
        raise ValueError(f"{folder}: sae-lens loads other metadata: {theirs.cfg.metadata}")
    _check_outputs(folder, ours, theirs, acts.float().cpu())


def loaded_by_lens(folder: Path) -> Any:
    """The SAE by sae-lens' own loader, on the CPU."""
    with without_traces():
        from sae_lens import SAE

        return SAE.load_from_disk(folder, device="cpu")


def _check_outputs(folder: Path, ours: Dictionary, theirs: Any, acts: Tensor) -> None:
    with torch.no_grad():
        latents = theirs.encode(acts)
        outputs = theirs.decode(latents)
    for what, expected, found in (
        ("latents", ours.encode(acts), latents),
        ("reconstructions", ours.reconstruct(acts), outputs),
    ):
        most = MOST_RELATIVE_DIFFERENCE * float(expected.abs().max())
        difference = float((found - expected).abs().max())
        if not difference <= most:
            raise ValueError(f"{folder}: sae-lens' {what} differ by {difference}, at most {most}")

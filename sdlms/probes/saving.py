"""Probes on disk: tensors in safetensors, everything else in a JSON file beside it."""

import json
from pathlib import Path
from typing import Any

import torch

from sdlms.errors import UserError
from sdlms.probes.kinds import Probe, kind_of, kind_of_probe
from sdlms.storage.files import write_atomically
from sdlms.storage.tensors import read_tensors, write_tensors

FORMAT = "sdlms-probe"
VERSION = 1


def save_probe(stem: Path, probe: Probe) -> None:
    """Write `<stem>.safetensors` and `<stem>.json`; equal probes give equal bytes.

    Raises:
        ValueError: the probe was not fitted, or is of no known kind.
    """
    kind = kind_of_probe(probe)
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in probe.tensors().items()}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind.name,
        "settings": probe.settings(),
    }
    text = json.dumps(header, indent=2, sort_keys=True, allow_nan=False)
    write_tensors(_beside(stem, ".safetensors"), arrays, {"format": FORMAT, "kind": kind.name})
    write_atomically(_beside(stem, ".json"), f"{text}\n".encode())


def load_probe(stem: Path) -> Probe:
    """The probe that was saved as `stem`; its predictions are bit-equal.

    Raises:
        UserError: a file is missing or damaged, or of an unknown version or kind.
    """
    path = _beside(stem, ".json")
    header = _header(path)
    kind = kind_of(str(header["kind"]))
    arrays, _ = read_tensors(_beside(stem, ".safetensors"))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        return kind.probe_class().from_parts(header["settings"], tensors)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not what a probe of kind {kind.name} needs: {error}") from error


def _header(path: Path) -> dict[str, Any]:
    """The JSON file, checked as far as one can before the kind is known."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file. Give a probe's path without its ending.")
    try:
        header = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path}: not a saved probe (format '{FORMAT}').")
    if header.get("version") != VERSION:
        raise UserError(
            f"{path}: version {header.get('version')} of the probe format; this sdlms reads "
            f"version {VERSION}. Use the sdlms that wrote it, or a newer one."
        )
    missing = {"kind", "settings"} - set(header)
    if missing:
        raise UserError(f"{path}: lacks {', '.join(sorted(missing))}.")
    return header


def _beside(stem: Path, ending: str) -> Path:
    """`stem` with an ending; a dot in the stem stays, as in `layer.2`."""
    return stem.with_name(stem.name + ending)

"""Tuned lenses on disk: ours, and those that the tuned-lens library publishes.

```
config.json              the library's fields (base_model_name_or_path, d_model, ...), and ours
translators.safetensors  weight [translator, d_model, d_model], bias [translator, d_model]; float32
documents.txt            ids of the documents it was trained on, one a line, ascending
```
The library has `params.pt` instead, a dictionary of `0.weight`, `0.bias`, `1.weight`, ...: it is
read with torch's restricted unpickler, which makes tensors and runs nothing.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch raises; nothing is unpickled here
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.lens.tuned import Tuned
from sdlms.progress import LOGGER
from sdlms.storage.files import write_atomically
from sdlms.storage.tensors import read_tensors, write_tensors

FORMAT, VERSION = "sdlms tuned lens", 1
CONFIG, TRANSLATORS, PUBLISHED = "config.json", "translators.safetensors", "params.pt"
DOCUMENTS = "documents.txt"
DOCUMENT_ID = re.compile("[0-9a-f]{16}")
LENS_TYPE = "linear_tuned_lens"
Json = dict[str, Any]


def write_tuned(
    folder: Path,
    tuned: Tuned,
    model: Mapping[str, Any],
    documents: Collection[str] | None = None,
) -> list[str]:
    """Write a lens; equal lenses give equal bytes.

    Args:
        folder: is made if need be.
        tuned: the translators.
        model: whose they are, as `model_record` gives it.
        documents: ids of the texts that it was trained on; None where nobody knows.

    Returns:
        The names of the files.

    Raises:
        UserError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"weight": tuned.weight.cpu().numpy(), "bias": tuned.bias.cpu().numpy()}
    write_tensors(folder / TRANSLATORS, arrays, {"format": FORMAT, "version": str(VERSION)})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "base_model_name_or_path": model["name"],
        "base_model_revision": model["revision"],
        "d_model": tuned.weight.shape[-1],
        "num_hidden_layers": tuned.n_layers,
        "bias": True,
        "lens_type": LENS_TYPE,
        "weights": model["weights"],
    }
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    write_atomically(folder / CONFIG, f"{text}\n".encode())
    if documents is None:
        return [CONFIG, TRANSLATORS]
    lines = "".join(f"{document}\n" for document in sorted(documents))
    write_atomically(folder / DOCUMENTS, lines.encode())
    return [CONFIG, DOCUMENTS, TRANSLATORS]


def read_documents(folder: Path) -> frozenset[str] | None:
    """Ids of the documents that a lens was trained on; None where it does not say.

    Raises:
        UserError: the list is damaged.
    """
    path = folder / DOCUMENTS
    if not path.is_file():
        return None
    ids = path.read_bytes().decode("ascii", errors="replace").splitlines()
    for number, name in enumerate(ids, start=1):
        if not DOCUMENT_ID.fullmatch(name):
            raise UserError(f"{path}: line {number} is no id of a document. Train the lens again.")
    return frozenset(ids)


def read_tuned(folder: Path, model: Mapping[str, Any], d_model: int) -> Tuned:
    """Read a lens and make sure that it belongs to a model.

    Args:
        folder: of a lens of ours, or of the tuned-lens library.
        model: the model, as `model_record` gives it.
        d_model: its residual width.

    Raises:
        UserError: there is none, it is damaged, or of another model. That weights are others than
            those it was trained on can only be told of our own lenses; of the library's, another
            model's name is a warning.
    """
    config = _read_config(folder)
    n_layers = int(model["n_layers"])
    found = config.get("num_hidden_layers"), config.get("d_model")
    if found != (n_layers, d_model):
        raise UserError(
            f"{folder}: this lens is of a model with {found[0]} layers of width {found[1]}; "
            f"{model['name']} has {n_layers} of width {d_model}. Train one: sdlms logit-lens "
            "--tuned"
        )
    if (kind := config.get("lens_type", LENS_TYPE)) != LENS_TYPE:
        raise UserError(f"{folder}: lens_type '{kind}' is unknown; this sdlms reads {LENS_TYPE}.")
    _compare_models(folder, config, model)
    ours = config.get("format") == FORMAT
    tuned = _read_ours(folder) if ours else _read_published(folder, n_layers, d_model)
    shapes = (n_layers, d_model, d_model), (n_layers, d_model)
    if (tuple(tuned.weight.shape), tuple(tuned.bias.shape)) != shapes:
        raise UserError(f"{folder}: its translators have other shapes than its {CONFIG} says.")
    if not all(bool(torch.isfinite(part).all()) for part in tuned):
        raise UserError(f"{folder}: a translator holds values that are not finite.")
    return tuned


def _read_config(folder: Path) -> Json:
    """The settings beside the translators."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError:
        raise UserError(
            f"{folder}: there is no tuned lens ({CONFIG} with {TRANSLATORS} or {PUBLISHED}). "
            "Train one: sdlms logit-lens --tuned"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON, or damaged ({error}).") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected an object, got {type(config).__name__}.")
    if config.get("format", FORMAT) != FORMAT or config.get("version", VERSION) != VERSION:
        raise UserError(
            f"{path}: '{config.get('format')}' version {config.get('version')}; this sdlms reads "
            f"'{FORMAT}' version {VERSION}."
        )
    return config


def _compare_models(folder: Path, config: Json, model: Mapping[str, Any]) -> None:
    """Refuse or doubt a lens of another model."""
    if "weights" in config and config["weights"] != model["weights"]:
        raise UserError(
            f"{folder}: this lens was trained on other weights than those of {model['name']} "
            f"(it names {config.get('base_model_name_or_path')}). Train one: sdlms logit-lens "
            "--tuned"
        )
    named = config.get("base_model_name_or_path")
    if "weights" not in config and named != model["name"]:
        LOGGER.warning(f"{folder}: this lens says that it belongs to {named}, not {model['name']}")


def _read_ours(folder: Path) -> Tuned:
    """The translators as `write_tuned` left them."""
    arrays, _ = read_tensors(folder / TRANSLATORS)
    if set(arrays) != {"weight", "bias"}:
        raise UserError(f"{folder / TRANSLATORS}: expected weight and bias, got {sorted(arrays)}.")
    return Tuned(torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]))


def _read_published(folder: Path, n_layers: int, d_model: int) -> Tuned:
    """The translators as the tuned-lens library saves them; without biases these are 0."""
    path = folder / PUBLISHED
    state = _tensors_in(path)
    weights = [state.pop(f"{layer}.weight", None) for layer in range(n_layers)]
    biases = [state.pop(f"{layer}.bias", torch.zeros(d_model)) for layer in range(n_layers)]
    missing = [layer for layer, weight in enumerate(weights) if weight is None]
    if missing or state:
        what = f"lacks {missing[0]}.weight" if missing else f"holds {sorted(state)[0]} too"
        raise UserError(f"{path}: no lens of {n_layers} linear translators: it {what}.")
    rows = [weight.float() for weight in weights if weight is not None]
    shapes = {tuple(row.shape) for row in rows} | {(*bias.shape, d_model) for bias in biases}
    if shapes != {(d_model, d_model)}:
        raise UserError(f"{path}: its translators have other shapes than its {CONFIG} says.")
    return Tuned(torch.stack(rows), torch.stack([bias.float() for bias in biases]))


def _tensors_in(path: Path) -> dict[str, Tensor]:
    """A dictionary of tensors that torch saved."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    if not is_zipfile(path):  # as torch has saved since 1.6
        raise UserError(f"{path}: not a file of tensors, or damaged (no zip archive).")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: not a file of tensors, or damaged ({reason}).") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: expected a dictionary of tensors.")
    return {str(name): tensor for name, tensor in state.items()}

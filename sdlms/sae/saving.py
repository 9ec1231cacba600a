"""Members as they are published: weights and configuration that sae-lens loads, and their curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdlms.sae.dictionary import config_of, dictionary_of
from sdlms.sae.lens_check import check_loads
from sdlms.sae.pupil import CURVE_COLUMNS, Pupil
from sdlms.storage.sae_files import CONFIG, WEIGHTS, write_sae
from sdlms.storage.tables import write_table

CURVE = "reconstruction_loss.csv"
# Files of a member's folder, with the columns of tables.
FILES: dict[str, tuple[str, ...] | None] = {
    CONFIG: None,
    WEIGHTS["sae-lens"]: None,
    CURVE: CURVE_COLUMNS,
}
# As TransformerLens calls the sites, which is how others find the place again.
HOOKS = {
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "mlp_act": "blocks.{layer}.mlp.hook_post",
}


def folder_of(site: str, layer: int, member: str) -> Path:
    """Where a member lies in its run."""
    return Path("sae") / site / f"layer_{layer}" / member


def save_member(
    folder: Path, pupil: Pupil, scale: float, metadata: Mapping[str, Any], acts: Tensor
) -> None:
    """Write the best weights and the curve, and make sure that sae-lens does the same with them.

    Args:
        folder: made if need be.
        pupil: a member that has ended.
        scale: what activations were multiplied by.
        metadata: where it comes from.
        acts: `[row, unit]` activations on which sae-lens must agree.

    Raises:
        ValueError: sae-lens loads something else, or a weight is not finite.
    """
    dictionary = dictionary_of(pupil.member.recipe, pupil.best, scale)
    arrays = {name: tensor.cpu().numpy() for name, tensor in dictionary.tensors.items()}
    write_sae(folder, arrays, config_of(dictionary, dict(metadata)))
    write_table(folder / CURVE, CURVE_COLUMNS, pupil.progress.curve)
    check_loads(folder, acts)


def metadata_of(
    model: Mapping[str, Any],
    site: str,
    layer: int,
    capture: str | None,
    training: Mapping[str, Any],
) -> dict[str, Any]:
    """What `cfg.json` says of an SAE's origin.

    Args:
        model: as `meta.jsonl` records it.
        site: where in the model.
        layer: from 0.
        capture: name of the run it was trained on; None where a model ran.
        training: settings of its training.
    """
    return {
        "model_name": model["name"],
        "model_revision": model["commit"] or model["revision"],
        "model_weights_sha256": dict(model["weights"]),
        "reinit_seed": model["reinit_seed"],
        "hook_name": HOOKS[site].format(layer=layer),
        "hook_layer": layer,
        "site": site,
        "layer": layer,
        "capture_run": capture,
        "trained_by": "sdlms",
        "training": dict(training),
    }

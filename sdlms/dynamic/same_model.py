"""Whether a run is of the model that is gated."""

from collections.abc import Mapping
from typing import Any

from sdlms.errors import UserError
from sdlms.runs.reading import Run


def check_same_model(run: Run, record: Mapping[str, Any], flag: str) -> None:
    """Refuse a run of another model, or of fresh weights of the same one.

    Models are told by the hashes of their weights.

    Args:
        run: complete; its `resolved` holds the record of a model.
        record: of the model that is gated, as `sdlms.models.recorded` makes it.
        flag: that named the run.

    Raises:
        UserError: naming both.
    """
    other = run.start["resolved"].get("model") or {}
    if other.get("weights") and other["weights"] == record["weights"]:
        return
    raise UserError(
        f"{flag}: {run.name} is of the model {_named(other)}, not of {_named(record)}: their "
        "weights differ. Name a run of the model that is gated."
    )


def _named(record: Mapping[str, Any]) -> str:
    """Its name; of fresh weights, that they are."""
    seed = record.get("reinit_seed")
    name = str(record.get("name"))
    return name if seed is None else f"{name} with fresh weights (seed {seed})"

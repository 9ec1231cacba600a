"""Settings of `sdlms logit-lens`, checked before anything heavy is imported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LENS_FILE, TABLE, TARGETS_TABLE = "lens.h5", "logit_lens.csv", "targets.csv"
TUNED_FOLDER = "tuned_lens"


def check_tuned(*, train: bool, saved: str | None, mid: bool, changed: Sequence[str]) -> None:
    """Check what is said of tuned lenses.

    Args:
        train: whether one is trained.
        saved: one that is read.
        mid: whether states after attention are measured too.
        changed: flags of the training that are not as they are by default.

    Raises:
        UserError: two lenses are named, a state has no translator, or a setting has no effect.
    """
    if saved is not None and not saved.strip():
        raise UserError("--tuned-lens is empty. Name a folder or a logit-lens run, or leave it.")
    if train and saved is not None:
        raise UserError(
            f"--tuned trains a lens and --tuned-lens {saved} reads one. Leave one of them out."
        )
    if mid and (train or saved is not None):
        flag = "--tuned" if train else "--tuned-lens"
        raise UserError(
            f"--mid looks at states after attention, for which a tuned lens has no translator. "
            f"Leave out --mid or {flag}."
        )
    if changed and not train:
        raise UserError(f"{changed[0]} is for --tuned, which trains a lens. Add it, or leave it.")


def check_mid(config: "PreTrainedConfig") -> None:
    """Make sure that a model has a residual stream after attention.

    Raises:
        UserError: its blocks norm the sum itself.
    """
    if architecture_for(config).norm_after_addition(text_config(config)):
        raise UserError(
            f"--mid: blocks of this model (model_type '{config.model_type}') norm the sum after "
            "attention, so that no residual stream is there to look at. Leave out --mid."
        )

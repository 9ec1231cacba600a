"""A sweep from its recipes to its folders: who learns, until when, and what is saved of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdlms.models.device import return_freed_memory
from sdlms.sae.initial import initial_weights
from sdlms.sae.members import Member
from sdlms.sae.memory import within_memory
from sdlms.sae.preparation import Prepared
from sdlms.sae.pupil import Pupil
from sdlms.sae.saving import FILES, folder_of, metadata_of, save_member
from sdlms.sae.subject import Subject
from sdlms.sae.trainers import Trainer, learner_of
from sdlms.sae.training import Course, Training

COMPARED_ROWS = 64  # on which sae-lens must agree with what was saved
REMEDY = "Lower --batch-size or --expansion, or name fewer --layers or coefficients."


class Place(NamedTuple):
    """Where members learn: what products run in, on which device, and by whom."""

    products: torch.dtype
    device: torch.device
    trainer: Trainer


def trained(
    members: Sequence[Member], prepared: Prepared, course: Course, place: Place, checkpoint: Path
) -> list[Pupil]:
    """Train every member, or go on from a checkpoint; behind it only the best weights are left.

    Args:
        members: of all layers.
        prepared: what they learn from; its stream holds nothing in the end.
        course: how long.
        place: where.
        checkpoint: folder to keep what was done.

    Raises:
        UserError: a member diverges, or they do not fit the memory; what was saved last stays.
    """
    stream = prepared.stream
    what = f"{len(members)} members with batches of {stream.batch_size} tokens"
    with within_memory(what, place.device, REMEDY):
        pupils = pupils_of(members, prepared, place)
        Training(prepared, pupils, course, place.device).run(checkpoint)
    stream.release()
    return_freed_memory()
    return pupils


def pupils_of(members: Sequence[Member], prepared: Prepared, place: Place) -> list[Pupil]:
    """Every member, anew, in order; they belong to all layers of what was prepared."""
    layers = sorted({member.layer for member in members})
    return [_pupil(member, prepared, layers.index(member.layer), place) for member in members]


def _pupil(member: Member, prepared: Prepared, index: int, place: Place) -> Pupil:
    """A member, anew; its decoder's bias starts at the mean of what it learns from."""
    scale = float(prepared.scales[index])
    mean = prepared.moments[index].mean
    initial = initial_weights(member.recipe, (mean * scale).float())
    learner = learner_of(member.recipe, initial, *place)
    return Pupil(member, learner, scale**2 * _spread(prepared.validation[index], mean))


def _spread(acts: Tensor, mean: Tensor) -> float:
    """Mean squared distance of `[token, unit]` from `mean`."""
    return float((acts.double() - mean).square().sum(dim=1).mean())


def saved(
    run_folder: Path,
    subject: Subject,
    prepared: Prepared,
    pupils: Sequence[Pupil],
    training: dict[str, Any],
) -> Iterator[tuple[str, Sequence[str] | None]]:
    """Write each member's folder; its weights are let go of then.

    Args:
        run_folder: of the run.
        subject: what was trained on.
        prepared: scales, and activations on which sae-lens must agree.
        pupils: members that have ended.
        training: settings that all share, for the metadata.

    Yields:
        Files that are complete, relative to the run, with the columns of tables.
    """
    capture = None if subject.run is None else subject.run.name
    for pupil in pupils:
        member, index = pupil.member, subject.layers.index(pupil.member.layer)
        own = {"coefficient": member.recipe.coefficient, "seed": member.recipe.seed}
        settings = {**training, **own}
        metadata = metadata_of(subject.model, subject.site, member.layer, capture, settings)
        metadata["control"] = subject.control
        folder = folder_of(subject.site, member.layer, member.name)
        scale = float(prepared.scales[index])
        acts = prepared.measured.acts[index, :COMPARED_ROWS].float()
        save_member(run_folder / folder, pupil, scale, metadata, acts)
        pupil.best.clear()
        for name, columns in FILES.items():
            yield str(folder / name), columns

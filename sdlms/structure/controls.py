"""`--controls`: runs of the same documents with fresh weights, or with shuffled tokens."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.sae.pairing import check_model
from sdlms.structure.control_table import NONE, PERMUTED, REINIT
from sdlms.structure.documents import Documents
from sdlms.structure.subject import Subject, open_subject

CONTROLS = (REINIT, PERMUTED)


def control_subjects(subject: Subject, runs: Sequence[Run]) -> dict[str, Subject]:
    """The controls of a subject, their documents in its order.

    Args:
        subject: the model itself.
        runs: complete ones.

    Returns:
        `control -> subject`, at most one of each kind, in the order of `CONTROLS`.

    Raises:
        UserError: a run is no control of this subject; naming what differs.
    """
    if runs and subject.control != NONE:
        raise UserError(
            f"--acts {subject.run.name} is a control itself ({subject.control}); --controls "
            "stand beside the model itself. Name the model's own run by --acts."
        )
    found: dict[str, Subject] = {}
    for run in runs:
        control = _control_subject(subject, run)
        if control.control in found:
            raise UserError(
                f"--controls: {found[control.control].run.name} and {run.name} are both "
                f"{control.control}. Name one of them."
            )
        found[control.control] = control
    return {name: found[name] for name in CONTROLS if name in found}


def _control_subject(subject: Subject, run: Run) -> Subject:
    """One of them, checked."""
    if run.stage != subject.run.stage:
        raise UserError(
            f"--controls: {run.name} is a '{run.stage}' run, {subject.run.name} a "
            f"'{subject.run.stage}' run. Name runs of the same stage."
        )
    check_model(subject.run, run)
    layers = tuple(str(layer) for layer in subject.layers)
    control = open_subject(run, subject.site, layers, subject.rule)
    if control.control not in CONTROLS:
        raise UserError(
            f"--controls: {run.name} is no control. Make one: sdlms capture --control reinit (or "
            "permute-tokens), with all other settings as they were"
            + (", and its sae-latents." if subject.kind == "latent" else ".")
        )
    _check_encoded(subject.run, run)
    return replace(control, documents=_in_order(subject, control))


def _check_encoded(one: Run, other: Run) -> None:
    """Refuse latents of another site."""
    sites = [run.start["resolved"].get("site") for run in (one, other)]
    if sites[0] != sites[1]:
        raise UserError(
            f"--controls: {other.name} has latents of {sites[1]}, {one.name} of {sites[0]}. "
            "Name runs of one site."
        )


def _in_order(subject: Subject, control: Subject) -> Documents:
    """The control's documents as the subject has them.

    Raises:
        UserError: they are others, or belong to other tasks, or have other tokens.
    """
    own, other = subject.documents, control.documents
    places = {document: place for place, document in enumerate(other.ids)}
    if len(own.ids) != len(other.ids) or set(own.ids) != set(places):
        n_missing = len(set(own.ids) - set(places))
        raise UserError(
            f"--controls: {control.run.name} has {len(other.ids):,} documents, of the "
            f"{len(own.ids):,} of {subject.run.name} it lacks {n_missing:,}. Capture the same: "
            "--tasks, --max-tokens and --seed as they were."
        )
    order = np.array([places[document] for document in own.ids], dtype=np.int64)
    names = [[each.task_names[task] for task in each.tasks] for each in (own, other)]
    if [names[1][place] for place in order] != names[0]:
        raise UserError(
            f"--controls: documents of {control.run.name} belong to other tasks than in "
            f"{subject.run.name}. Capture the same --tasks."
        )
    if not np.array_equal(other.n_tokens[order], own.n_tokens):
        raise UserError(
            f"--controls: documents of {control.run.name} have other numbers of tokens than in "
            f"{subject.run.name}. Capture with the same --skip-first."
        )
    return replace(own, indices=other.indices[order])

"""What is said in the log where numbers could be taken for more than they are."""

from collections.abc import Mapping

from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, list_runs
from sdlms.structure.control_table import NONE, REINIT
from sdlms.structure.subject import Subject


def announce_controls(subject: Subject, controls: Mapping[str, Subject], *, latest: bool) -> None:
    """Log that a control is measured as if it were the model, or that fresh weights lack a match.

    Args:
        subject: whose units are measured.
        controls: by name.
        latest: whether nobody named the subject; it is then worth a warning.
    """
    reinit = controls.get(REINIT)
    if reinit is not None and not reinit.has_firings:
        LOGGER.info(
            f"{reinit.run.name} was captured with --no-save: nothing is known of fresh weights "
            "that fire as often as the model (reinit-matched)"
        )
    if subject.control == NONE:
        return
    said = f"{subject.run.name} is a control, not the model itself: {subject.control}"
    if not latest:
        LOGGER.info(said)
        return
    newest = newest_of_a_model(subject.run)
    LOGGER.warning(f"{said}; the newest that is: --acts {newest.name}" if newest else said)


def newest_of_a_model(beside: Run) -> Run | None:
    """The newest complete run of the same stage, in the same folder, that is no control."""
    for run in reversed(list_runs(beside.path.parent)):
        if run.complete and run.stage == beside.stage:
            if run.start["resolved"].get("control", NONE) == NONE:
                return run
    return None

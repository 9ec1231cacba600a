"""What a lens run says before it begins: what it will do, and what to doubt about its text."""

from typing import Any

from sdlms.lens.study import Study
from sdlms.models.device import announcement, device_of
from sdlms.models.tokens import warn_of_truncation
from sdlms.progress import LOGGER
from sdlms.runs.writing import RunWriter

OVERLAP = "tuned_lens_overlap"


def announce(study: Study, decided: dict[str, Any], out: RunWriter) -> None:
    """Log what will happen; what the numbers depend on is an event of the run too.

    Args:
        study: what is measured.
        decided: what `auto` means in this run.
        out: the run, begun.
    """
    LOGGER.info(
        f"{study.inputs.source.name}: {' and '.join(study.lenses)} lens at {len(study.states)} "
        f"states; {study.rows.n_tokens:,} tokens in {study.rows.n_documents:,} documents"
    )
    told = announcement(device_of(decided["device"]), decided)
    kernel = " by the compiled kernel" if decided.get("backend") == "compiled" else ""
    LOGGER.info(f"{told}, unembedding in {decided['unembed']}{kernel}")
    if reason := decided.get("backend_reason"):
        LOGGER.warning(f"no compiled kernel, torch instead: {reason}")
    warn_of_truncation(study.inputs.tokens)
    if (truncated := study.inputs.tokens.truncated) and not out.resumed:
        out.event("document_truncated", count=len(truncated), tokens_cut=truncated)
    if study.training and (n_measured := study.training.n_measured):
        LOGGER.warning(f"--tuned: {n_measured} documents are measured too, and not trained on")
    if study.saved is not None:
        _tell_overlap(study.n_trained_on, study.rows.n_documents)
        if not out.resumed:
            out.event(OVERLAP, count=study.n_trained_on, n_documents=study.rows.n_documents)


def _tell_overlap(n_trained_on: int | None, n_documents: int) -> None:
    """Doubt a lens on its own training text."""
    if n_trained_on is None:
        LOGGER.warning(
            "--tuned-lens: it does not say which text it was trained on. There its numbers are "
            "better than on other text"
        )
    elif n_trained_on:
        LOGGER.warning(
            f"--tuned-lens: {n_trained_on:,} of {n_documents:,} documents are what it was trained "
            "on. There its numbers are better than on other text: name other --tasks"
        )

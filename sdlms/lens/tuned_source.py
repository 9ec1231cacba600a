"""The tuned lens of a run: a folder or run that a user names, or text to train one on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdlms.errors import UserError
from sdlms.lens.settings import TUNED_FOLDER
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import read_documents, read_tuned, write_tuned
from sdlms.lens.tuning import TuningSettings, train_tuned, without
from sdlms.models.architectures import n_units
from sdlms.progress import LOGGER
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, find_run, list_runs
from sdlms.storage.files import sha256_of, write_atomically
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STAGE = "logit-lens"


@dataclass(frozen=True, eq=False)
class Saved:
    """A tuned lens that was named.

    Attributes:
        folder: where it lies.
        run: the run that trained it; None for a folder of its own.
    """

    folder: Path
    run: Run | None

    def read(self, model: Mapping[str, Any], d_model: int) -> Tuned:
        """The translators.

        Args:
            model: the model that is looked at, as `model_record` gives it.
            d_model: its residual width.

        Raises:
            UserError: the lens is damaged, or of another model.
        """
        return read_tuned(self.folder, model, d_model)

    def documents(self) -> frozenset[str] | None:
        """Ids of the documents that it was trained on; None where it does not say.

        Raises:
            UserError: their list is damaged.
        """
        return read_documents(self.folder)

    def record(self) -> dict[str, Any]:
        """The lens as `meta.jsonl` records it."""
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        return {
            "folder": None if self.run else str(self.folder),  # a run may lie anywhere
            "run": self.run.name if self.run else None,
            "files": {path.name: sha256_of(path) for path in files},
        }


def find_tuned(artifacts: Path, named: str) -> Saved:
    """What `--tuned-lens` means: a folder of a lens, or a run that trained one.

    Args:
        artifacts: the artifacts folder.
        named: a folder (ours or of the tuned-lens library), or a run by path or name, with the
            lens' folder in it or without; `latest` is the newest complete run that trained one.

    Raises:
        UserError: there is no such folder or run, or the run trained no lens.
    """
    path = Path(named).expanduser()
    above = path.resolve().parent
    if path.name == TUNED_FOLDER and (above / META).is_file():
        return find_tuned(artifacts, str(above))  # so that the run is recorded as read
    if path.is_dir() and not (path / META).is_file():
        return Saved(path, None)
    if path.is_file():
        raise UserError(
            f"--tuned-lens {named} is a file. Name the folder of its lens: {path.parent}"
        )
    if "/" in named and not path.exists():
        raise UserError(
            f"--tuned-lens {named}: no such folder. Name that of a lens, or a {STAGE} run."
        )
    run = _latest(artifacts) if named == "latest" else find_run(artifacts, named, STAGE)
    if not _holds_lens(run):
        raise UserError(f"--tuned-lens: {run.name} trained no lens. Make one that does: --tuned")
    return Saved(run.path / TUNED_FOLDER, run)


def _holds_lens(run: Run) -> bool:
    """Whether a run trained a lens."""
    return (run.path / TUNED_FOLDER).is_dir()


def _latest(artifacts: Path) -> Run:
    """The newest complete run that trained a lens."""
    for run in reversed(list_runs(artifacts)):
        if run.complete and run.stage == STAGE and _holds_lens(run):
            LOGGER.info("latest tuned lens: %s", run.name)
            return run
    raise UserError(
        f"--tuned-lens latest: no completed '{STAGE}' run under {artifacts}/ trained a lens. Make "
        f"one: sdlms {STAGE} --tuned"
    )


@dataclass(frozen=True, eq=False)
class TrainingText:
    """What a lens is trained on.

    Attributes:
        rows: the documents.
        n_measured: documents that were left out because they are measured.
        data: the tasks as `meta.jsonl` records them.
    """

    rows: Rows
    n_measured: int
    data: list[dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """The text as `meta.jsonl` records it."""
        return {
            "data": self.data,
            "n_documents": self.rows.n_documents,
            "n_tokens": self.rows.n_tokens,
            "n_measured": self.n_measured,
        }


def training_text(
    rows: Rows, measured: Sequence[str], data: Sequence[dict[str, Any]]
) -> TrainingText:
    """The documents that are not measured.

    Args:
        rows: of the text that was named for training.
        measured: ids of documents.
        data: the tasks as `meta.jsonl` records them.

    Raises:
        UserError: none is left.
    """
    if set(rows.document_ids) <= set(measured):
        raise UserError(
            f"--tuned: all {rows.n_documents} documents of --tuned-tasks are measured too. Train "
            "on other text, or measure other text (--tasks)."
        )
    kept = without(rows, measured)
    return TrainingText(kept, rows.n_documents - kept.n_documents, list(data))


class Places(NamedTuple):
    """Folders of a run: where its lens goes, and the checkpoints of its training."""

    lens: Path
    scratch: Path

    @property
    def finished(self) -> Path:
        """Is there once the lens is saved."""
        return self.scratch / "tuned_lens_finished"


def trained(
    model: "PreTrainedModel",
    text: TrainingText,
    settings: TuningSettings,
    places: Places,
    record: Mapping[str, Any],
) -> Tuned:
    """Train a lens and save it into the run; what is saved there already is read.

    Args:
        model: a causal model in evaluation mode.
        text: to train on.
        settings: how long.
        places: where the lens and the checkpoints of its training go.
        record: of the model.

    Returns:
        The lens, on the CPU.

    Raises:
        UserError: training does not fit the memory or left the numbers, or the disk is full.
    """
    d_model = n_units(model.config, "resid_post")
    if places.finished.exists():
        return read_tuned(places.lens, record, d_model)
    tuned = train_tuned(model, text.rows, settings, places.scratch)
    write_tuned(places.lens, tuned, record, text.rows.document_ids)
    write_atomically(places.finished, b"")
    return tuned

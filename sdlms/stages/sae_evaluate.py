"""Measure sparse autoencoders that exist already, whoever trained them.

Writes sae.csv (one row per autoencoder, in the columns of sae-train), latents.h5 (what each latent
fires on) and documents.csv. A capture's documents are split as sae-train splits them: four fifths
give mean and covariance, the held-out fifth is measured. An autoencoder that others have trained
may have seen any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sdlms.command import ComputeConfig
from sdlms.errors import UserError
from sdlms.models.layers import check_layers, named_layers
from sdlms.models.settings import check_at_least, check_sites
from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter
from sdlms.sae.settings import DEFAULT_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sdlms.acts.file_source import FileSource
    from sdlms.sae.candidates import Candidate
    from sdlms.sae.documents import Documents
    from sdlms.sae.measuring import Ground, Saved
    from sdlms.sae.preparation import Basis
    from sdlms.sae.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the sae-evaluate stage."""

    sae: Annotated[
        tuple[str, ...],
        "Each the folder of an SAE, a hub name (owner/repository/folder), or a sae-train run.",
    ] = ("latest",)
    acts: Annotated[
        str | None, "A capture run; by default the one a sae-train run read, otherwise latest."
    ] = None
    site: Annotated[str | None, "Which site, where nothing else says it."] = None
    layers: Annotated[
        tuple[str, ...] | None,
        "Of a run, which of its layers; of a folder or the hub the one it is for, by its index.",
    ] = None
    member: Annotated[str | None, "Of a run, this member alone, by name; all of them."] = None
    revision: Annotated[str | None, "Branch, tag or commit of what comes from the hub."] = None
    eval_tokens: Annotated[int, "Held-out tokens to measure on, in whole documents."] = 50_000
    ce_tokens: Annotated[int, "Of these, for cross-entropy recovered; 0 leaves it out."] = 10_000

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        if not all(name.strip() for name in self.sae) or not self.sae:
            raise UserError("--sae is empty. Name folders, hub names, or a sae-train run.")
        for name, bound in {"eval_tokens": 1, "ce_tokens": 0}.items():
            check_at_least(name, getattr(self, name), bound)
        if self.layers is not None:
            check_layers(self.layers)
        if self.site is not None:
            check_sites([self.site])


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known before the first activation is read.

    Attributes:
        runs: those that are read, the capture last.
        subject: where activations come from.
        documents: their roles.
        candidates: what is measured, under unique names.
        saved: the same as they are measured.
    """

    runs: list[Run]
    subject: "Subject"
    documents: "Documents"
    candidates: "list[Candidate]"
    saved: "list[Saved]"

    def resolved(self) -> dict[str, Any]:
        """What the inputs turned out to be, for `meta.jsonl`."""
        return {
            "acts": self.runs[-1].name,
            "model": self.subject.model,
            "control": self.subject.control,
            "site": self.subject.site,
            "layers": self.subject.layers,
            "saes": [
                {"sae": each.trained.origin, **each.trained.record()} for each in self.candidates
            ],
        }


def run(config: Config, out: RunWriter) -> None:
    """Write `sae.csv`, `latents.h5` and `documents.csv`.

    Raises:
        UserError: a setting or an input is wrong, or SAEs and activations do not belong together
            (before anything is written); or an activation is no number.
    """
    from sdlms.models.device import device_of, set_threads
    from sdlms.sae.ground import ground_of, note_halved, scoring_of, write_documents

    plan, decided = _plan(config, out)
    out.check_disk(_predicted_bytes(plan), "Name fewer SAEs by --sae or --layers.")
    decided = out.start(plan.resolved(), decided)
    for read in plan.runs:
        out.input(read)
    set_threads(decided["threads"])
    _announce(plan, decided)
    write_documents(plan.subject.rows, plan.documents, out)
    subject, documents, device = plan.subject, plan.documents, device_of(decided["device"])
    with out.phase("preparation"):
        model, basis = _prepare(config, plan, decided)
    with out.phase("measuring"):
        halved = partial(note_halved, out)
        scoring = scoring_of(subject.rows, documents, model, device, halved)
        ground = ground_of(subject, documents, basis, scoring, device, config.seed)
        _measure(plan, ground, out)
    out.summary["tokens"] = len(basis.measured.positions) * len(plan.saved)


def _plan(config: Config, out: RunWriter) -> tuple[Plan, dict[str, Any]]:
    """Check every setting and input; read tokens, documents and autoencoders."""
    from sdlms.models.device import decisions, device_of
    from sdlms.sae.candidates import numbered, saved_of, warn_of_origin
    from sdlms.sae.dictionary import load_dictionary
    from sdlms.sae.documents import Budgets, documents_by_role
    from sdlms.sae.pairing import check_units
    from sdlms.sae.subject import captured_subject
    from sdlms.storage.counts import masked_lengths

    decided = decisions(device_of(config.device), config.dtype, config.threads)
    trainings, candidates = _candidates(config, out)
    acts = _capture(config, out, trainings)
    source = _source(acts, candidates, config.site)
    site, n_units = source.description.site, source.description.n_units
    layers = [str(each.trained.layer) for each in candidates]
    subject = captured_subject(acts, site, layers, needs_model=config.ce_tokens > 0)
    counts, tasks = masked_lengths(subject.rows), subject.rows.document_tasks
    # As many training tokens as a sae-train run read, so that its means are these.
    read = [int(each.start["config"]["tokens"]) for each in trainings]
    # Mean and covariance rest on as many as training, where no run says how many it read.
    budgets = Budgets(max(read, default=DEFAULT_TOKENS), config.eval_tokens, config.ce_tokens)
    known = _learned_from(trainings, subject.rows.document_ids)
    documents = documents_by_role(counts, tasks, config.seed, budgets, known)
    saved = []
    candidates = numbered(candidates)
    for each in candidates:
        dictionary = load_dictionary(each.trained.folder)
        check_units(each.trained, dictionary, site, n_units)
        warn_of_origin(each, site, str(subject.model["name"]))
        saved.append(saved_of(each, dictionary, site, subject.d_model))
    return Plan([*trainings, acts], subject, documents, candidates, saved), decided


def _candidates(config: Config, out: RunWriter) -> "tuple[list[Run], list[Candidate]]":
    """The sae-train runs among `--sae`, and every autoencoder that is meant."""
    from sdlms.sae.candidates import candidate_in_folder, candidates_in_run, run_named
    from sdlms.sae.opening import find_sae

    runs: list[Run] = []
    found: list[Candidate] = []
    from_hub = False
    for name in config.sae:
        run = run_named(out.options.artifacts, name)
        if run is not None:
            runs.append(run)
            found += candidates_in_run(run, config.site, config.layers, config.member)
            continue
        is_here = Path(name).expanduser().is_dir()
        from_hub = from_hub or not is_here
        folder = find_sae(name, None if is_here else config.revision)
        found.append(candidate_in_folder(name, folder, config.site, config.layers))
    if config.member is not None and not runs:
        raise UserError(f"--member {config.member} is of a sae-train run; --sae names none.")
    if config.revision is not None and not from_hub:
        raise UserError(f"--revision {config.revision} is for SAEs of the hub; --sae names none.")
    return runs, found


def _capture(config: Config, out: RunWriter, trainings: list[Run]) -> Run:
    """The activations that are meant; those of another model than a run's are refused."""
    from sdlms.sae.pairing import capture_of, check_model

    if config.acts is not None or not trainings:
        named = "latest" if config.acts is None else config.acts
        acts = find_run(out.options.artifacts, named, "capture")
    else:
        acts = capture_of(trainings[0])
    for training in trainings:
        check_model(training, acts)
    return acts


def _learned_from(trainings: list[Run], document_ids: Sequence[str]) -> list[int]:
    """Documents, as indices, that one of the runs has learned from, whatever capture it read."""
    from sdlms.sae.ground import DOCUMENTS
    from sdlms.storage.tables import read_table

    rows = [row for run in trainings for row in read_table(run.path / DOCUMENTS)]
    learned = {row["document_id"] for row in rows if row["split"] == "train"}
    return [number for number, own in enumerate(document_ids) if own in learned]


def _source(acts: Run, candidates: "list[Candidate]", site: str | None) -> "FileSource":
    """The activations that all of them are for; no more than what the file says is read."""
    from sdlms.sae.candidates import one_site
    from sdlms.sae.pairing import encoded_source

    meant = site or one_site(candidates)
    source = encoded_source(acts, [replace(each.trained, site=meant) for each in candidates])
    if not source.description.has_tokens or source.description.header.pools:
        raise UserError(
            f"{acts.name} holds pooled activations; an SAE is measured on tokens. Capture anew."
        )
    return source


def _predicted_bytes(plan: Plan) -> int:
    """What the run will take on disk."""
    from sdlms.sae.ground import table_bytes

    widths = {(each.layer, each.name): int(str(each.facts["width"])) for each in plan.saved}
    return table_bytes(plan.subject, plan.documents, widths)


def _announce(plan: Plan, decided: dict[str, Any]) -> None:
    """Log what is measured, and on what."""
    subject, documents = plan.subject, plan.documents
    LOGGER.info(
        f"{plan.runs[-1].name}: {subject.site} at {named_layers(subject.layers)}; "
        f"{len(documents.measured):,} documents to measure on, device {decided['device']}, "
        f"{decided['threads']} threads"
    )
    for each in plan.saved:
        what = f"{each.facts['architecture']}, {each.facts['width']} latents"
        LOGGER.info(f"layer {each.layer}: {each.name} ({what})")


def _prepare(
    config: Config, plan: Plan, decided: dict[str, Any]
) -> "tuple[PreTrainedModel | None, Basis]":
    """Load the model where cross-entropy needs it; read activations."""
    from sdlms.models.device import DTYPES, device_of
    from sdlms.sae.preparation import basis

    load = plan.subject.load_causal if config.ce_tokens else plan.subject.load_base
    model = load(DTYPES[decided["dtype"]], device_of(decided["device"]))
    return model, basis(plan.subject.acts(model), plan.documents, config.seed)


def _measure(plan: Plan, ground: "Ground", out: RunWriter) -> None:
    """Write `latents.h5` and `sae.csv`."""
    from sdlms.sae.finding import TABLE
    from sdlms.sae.ground import LATENTS
    from sdlms.sae.measuring import COLUMNS, measure_all
    from sdlms.storage.tables import write_table

    origin = ", ".join(dict.fromkeys(each.trained.origin for each in plan.candidates))
    rows = measure_all(plan.saved, ground, out.path / LATENTS, plan.subject.model, origin)
    out.output(LATENTS)
    write_table(out.path / TABLE, COLUMNS, rows)
    out.output(TABLE, columns=COLUMNS)

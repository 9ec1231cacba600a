"""Train sparse autoencoders on activations and measure what the saved ones do.

Writes sae/ (a folder per layer and member that sae-lens loads), sae.csv (one row per member, of
held-out documents), latents.h5 (what each latent fires on) and documents.csv (how they were split).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdlms.command import ComputeConfig
from sdlms.errors import UserError
from sdlms.models.architectures import Site, n_layers
from sdlms.models.layers import DEFAULT_LAYERS, check_layers, layers_of
from sdlms.models.settings import check_at_least, check_sites
from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter
from sdlms.sae.recipe import Kind
from sdlms.sae.selection import rule_of
from sdlms.sae.settings import (
    DEFAULT_TOKENS,
    MOST,
    check_at_most,
    check_k,
    check_positive,
    coefficients_of,
    recipe_of,
    told,
    width_of,
)
from sdlms.tasks import Task, check_sources, load_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sdlms.sae.measuring import Ground
    from sdlms.sae.preparation import Prepared
    from sdlms.sae.pupil import Pupil
    from sdlms.sae.study import Study
    from sdlms.sae.subject import Subject

DEFAULT_MODEL = "sdlms-medium"
DEFAULT_TASKS = ("training",)
DEFAULT_SITE = "resid_post"


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the sae-train stage."""

    acts: Annotated[
        str | None, "A capture run: its path, its name, or latest. Without it a model is run."
    ] = None
    model: Annotated[
        str | None, f"Without --acts: embedded name, folder or hub id; {DEFAULT_MODEL} by default."
    ] = None
    revision: Annotated[str | None, "Branch, tag or commit of a hub model."] = None
    tasks: Annotated[tuple[str, ...], "Without --acts: a manifest, or task names."] = DEFAULT_TASKS
    texts: Annotated[Path | None, "A text, .jsonl or .parquet file to read instead."] = None
    field: Annotated[str, "Key of the text in a .jsonl or .parquet file."] = "text"
    layers: Annotated[
        tuple[str, ...] | None,
        f"Indices, percentages or all; by default all captured, or {','.join(DEFAULT_LAYERS)}.",
    ] = None
    site: Annotated[
        str | None, f"Where in the model; the run's only site, or {DEFAULT_SITE} without --acts."
    ] = None
    arch: Annotated[Kind, "Architecture."] = "standard"
    expansion: Annotated[float, "Latents per unit of the model's hidden size."] = 8.0
    width: Annotated[int | None, "Latents, instead of --expansion."] = None
    l1: Annotated[tuple[float, ...], f"L1 weights (standard, gated); {told('l1')}."] = ()
    k: Annotated[
        tuple[int, ...], f"Active latents (topk, batchtopk, matryoshka); {told('k')}."
    ] = ()
    l0: Annotated[tuple[float, ...], f"L0 weights (jumprelu); {told('l0')}."] = ()
    seeds: Annotated[int, "Initial weights for each coefficient, from --seed on."] = 2
    lr: Annotated[float, "Adam's largest learning rate."] = 1e-3
    batch_size: Annotated[int, "Tokens in an update."] = 2048
    tokens: Annotated[int, "Tokens to train on; more than there are mean several passes."] = (
        DEFAULT_TOKENS
    )
    patience: Annotated[int, "Evaluations (of 20) without progress before a stop; 0: never."] = 5
    select: Annotated[str, "Which member is taken: knee, l0=32, fvu=0.1 or ce=0.9."] = "knee"
    screen: Annotated[bool, "Give up the worse half of the sweep at 20 % and at 50 %."] = False
    trainer: Annotated[
        Literal["auto", "sae-lens"], "auto: our own steps for standard and topk, which are faster."
    ] = "auto"
    eval_tokens: Annotated[int, "Held-out tokens to measure on, in whole documents."] = 50_000
    ce_tokens: Annotated[int, "Of these, for cross-entropy recovered; 0 leaves it out."] = 10_000

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        least = {"seeds": 1, "batch_size": 1, "tokens": 1, "patience": 0, "eval_tokens": 1}
        for name, bound in {**least, "ce_tokens": 0}.items():
            check_at_least(name, getattr(self, name), bound)
        for name, bound in MOST.items():
            check_at_most(name, getattr(self, name), bound)
        if self.layers is not None:
            check_layers(self.layers)
        check_sites([self.site or DEFAULT_SITE])
        self._check_source()
        for name in ("expansion", "lr"):
            check_positive(name, getattr(self, name))
        check_at_least("width", 1 if self.width is None else self.width, 1)
        if self.dtype == "float16":
            raise UserError(
                "--dtype float16: gradients of an SAE leave its range. Choose bfloat16 or float32."
            )
        check_at_least("tokens", self.tokens, self.batch_size)
        coefficients = self.coefficients
        check_k(self.arch, coefficients, self.width or int(coefficients[-1]))
        if rule_of(self.select).name == "ce" and (self.screen or not self.ce_tokens):
            other = "--screen" if self.screen else "--ce-tokens 0"
            raise UserError(
                f"--select {self.select} needs cross-entropy, which {other} does not measure. "
                "Select by knee, l0= or fvu=."
            )

    def _check_source(self) -> None:
        """Activations come from a run or from a model, not from both."""
        if self.acts is None:
            check_sources(self.tasks, self.texts, self.field, *DEFAULT_TASKS)
            return
        given = {
            "--model": self.model is not None,
            "--revision": self.revision is not None,
            "--texts": self.texts is not None,
            "--tasks": self.tasks != DEFAULT_TASKS,
        }
        if wrong := [flag for flag, is_given in given.items() if is_given]:
            raise UserError(f"--acts is trained on alone: leave out {wrong[0]}, or --acts.")

    @property
    def coefficients(self) -> tuple[float, ...]:
        """What is swept over, ascending."""
        given = {"l1": self.l1, "k": tuple(map(float, self.k)), "l0": self.l0}
        return coefficients_of(self.arch, given)


def run(config: Config, out: RunWriter) -> None:
    """Write `sae/`, `sae.csv`, `latents.h5` and `documents.csv`.

    Raises:
        UserError: a setting or an input is wrong (before anything is written), an activation is no
            number, or a member diverges.
    """
    from sdlms.models.device import device_of, set_threads
    from sdlms.sae.ground import note_halved, write_documents
    from sdlms.sae.memory import check_memory

    study, decided = _plan(config, *_inputs(config, out))
    check_memory(study.members, device_of(decided["device"]))
    out.check_disk(study.predicted_bytes(), "Name fewer --layers or coefficients.")
    decided = out.start(study.resolved(decided["trainer"]), decided)
    if study.subject.run is not None:
        out.input(study.subject.run)
    set_threads(decided["threads"])
    _announce(study, decided)
    write_documents(study.subject.rows, study.documents, out)
    with out.phase("preparation"):
        model, prepared = _prepare(config, study, decided)
    with out.phase("training"):
        pupils = _train(config, study, decided, prepared, out)
    with out.phase("saving"):
        _save(config, study, prepared, pupils, out)
    with out.phase("measuring"):
        device = device_of(decided["device"])
        ground = study.ground(prepared, model, device, config.seed, partial(note_halved, out))
        _measure(config, study, ground, pupils, out)
    out.summary["tokens"] = max(int(pupil.progress.curve[-1]["tokens"]) for pupil in pupils)


def _inputs(config: Config, out: RunWriter) -> tuple[Run | None, list[Task]]:
    """The capture, or the documents that a model will read: found before torch is imported."""
    if config.acts is not None:
        return find_run(out.options.artifacts, config.acts, "capture"), []
    return None, load_tasks(config.tasks, config.texts, config.field)


def _plan(config: Config, capture: Run | None, tasks: list[Task]) -> "tuple[Study, dict[str, Any]]":
    """Check every setting and input; read tokens and documents."""
    from sdlms.models.device import decisions, device_of
    from sdlms.sae.documents import Budgets, documents_by_role
    from sdlms.sae.members import members_of
    from sdlms.sae.stream import check_enough
    from sdlms.sae.study import Study
    from sdlms.sae.trainers import described
    from sdlms.storage.counts import masked_lengths

    decided: dict[str, Any] = decisions(device_of(config.device), config.dtype, config.threads)
    decided["trainer"] = described(config.arch, config.trainer)
    subject = _subject(config, capture, tasks)
    counts, names = masked_lengths(subject.rows), subject.rows.document_tasks
    budgets = Budgets(config.tokens, config.eval_tokens, config.ce_tokens)
    documents = documents_by_role(counts, names, config.seed, budgets)
    check_enough(int(counts[documents.training].sum()), config.batch_size)
    width = width_of(config.width, config.expansion, subject.d_model)
    check_k(config.arch, config.coefficients, width)
    batches = (config.tokens // config.batch_size, config.batch_size, config.lr)
    recipe = recipe_of(config.arch, (subject.n_units, width), batches)
    seeds = range(config.seed, config.seed + config.seeds)
    members = members_of(recipe, subject.layers, config.coefficients, seeds)
    return Study(subject, [task.record() for task in tasks], documents, members), decided


def _subject(config: Config, capture: Run | None, tasks: list[Task]) -> "Subject":
    """What is trained on."""
    from sdlms.models.inputs import read_inputs, read_model
    from sdlms.models.tokens import Budget, Text, warn_of_truncation
    from sdlms.sae.subject import captured_subject, live_subject

    needs_model = config.ce_tokens > 0
    if capture is not None:
        return captured_subject(capture, config.site, config.layers, needs_model=needs_model)
    model = DEFAULT_MODEL if config.model is None else config.model
    source, model_config = read_model(model, config.revision)
    layers = layers_of(config.layers or DEFAULT_LAYERS, n_layers(model_config))
    texts = [[Text(item.id, task.name, item.text) for item in task.documents] for task in tasks]
    # Of each task more than is trained on, for a fifth is held out; and at least one document.
    budget = Budget(max(2 * config.tokens, 1 << 20), 0, config.seed)
    inputs = read_inputs(source, model_config, texts, budget)
    warn_of_truncation(inputs.tokens)
    site: Site = config.site or DEFAULT_SITE  # type: ignore[assignment]
    return live_subject(inputs, site, layers, needs_model=needs_model)


def _announce(study: "Study", decided: dict[str, Any]) -> None:
    """Log what will be trained, on what and where."""
    for line in study.description():
        LOGGER.info(line)
    place = f"device {decided['device']}, {decided['threads']} threads"
    LOGGER.info(f"{place}, products in {decided['dtype']}, steps by {decided['trainer']}")


def _prepare(
    config: Config, study: "Study", decided: dict[str, Any]
) -> "tuple[PreTrainedModel | None, Prepared]":
    """Load the model where it is needed; read what is shared by all members."""
    from sdlms.models.device import DTYPES, device_of
    from sdlms.sae.preparation import prepare

    load = study.subject.load_causal if config.ce_tokens else study.subject.load_base
    model = load(DTYPES[decided["dtype"]], device_of(decided["device"]))
    acts = study.subject.acts(model)
    return model, prepare(acts, study.documents, config.batch_size, config.seed)


def _train(
    config: Config,
    study: "Study",
    decided: dict[str, Any],
    prepared: "Prepared",
    out: RunWriter,
) -> "list[Pupil]":
    """Train all members, or go on where a checkpoint ends."""
    from sdlms.models.device import DTYPES, device_of
    from sdlms.sae.sweep import Place, trained
    from sdlms.sae.training import Course

    rule = rule_of(config.select) if config.screen else None
    course = Course(study.members[0].recipe.n_steps, config.patience, rule)
    place = Place(DTYPES[decided["dtype"]], device_of(decided["device"]), config.trainer)
    return trained(study.members, prepared, course, place, out.scratch / "training")


def _save(
    config: Config, study: "Study", prepared: "Prepared", pupils: "list[Pupil]", out: RunWriter
) -> None:
    """Write every member's folder."""
    from sdlms.sae.sweep import saved

    training = {"seed": config.seed, "select": config.select, "tokens": config.tokens}
    for name, columns in saved(out.path, study.subject, prepared, pupils, training):
        out.output(name, columns=columns)


def _measure(
    config: Config, study: "Study", ground: "Ground", pupils: "list[Pupil]", out: RunWriter
) -> None:
    """Write `latents.h5` and `sae.csv`; say which members were taken, and why."""
    from sdlms.sae.choosing import choose
    from sdlms.sae.finding import TABLE
    from sdlms.sae.ground import LATENTS
    from sdlms.sae.measuring import COLUMNS, measure_all
    from sdlms.storage.tables import write_table

    saved = study.saved(out.path, pupils)
    rows = measure_all(saved, ground, out.path / LATENTS, study.subject.model)
    out.output(LATENTS)
    choices = choose(rows, rule_of(config.select))
    write_table(out.path / TABLE, COLUMNS, rows)
    out.output(TABLE, columns=COLUMNS)
    told = {record["layer"] for record in out.events("selected")}  # by an interrupted try
    for choice in choices:
        if choice.layer not in told:
            out.event("selected", rule=config.select, **vars(choice))
        LOGGER.info(f"layer {choice.layer}: {choice.member} is taken ({choice.reason})")

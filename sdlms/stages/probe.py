"""Train probes on every layer of a run and test them on documents they have not seen.

Writes probe.csv (one row per layer, kind, seed and label), predictions.csv (one row per test
document or token and probe) and probes/ (weights, as safetensors with JSON).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdlms.command import DeviceConfig
from sdlms.errors import AbsentError, UserError, did_you_mean
from sdlms.models.layers import check_layers, layers_among
from sdlms.models.settings import check_at_least
from sdlms.probes.kinds import KINDS
from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter

if TYPE_CHECKING:
    from sdlms.acts.handle import Acts
    from sdlms.probes.labels import Labelled
    from sdlms.probes.question import Question
    from sdlms.probes.sweep import Sweep
    from sdlms.storage.scores import Scores

TABLE = "probe.csv"
PREDICTIONS = "predictions.csv"
BY_TASK = "task"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Settings of the probe stage."""

    acts: Annotated[str, "A capture or sae-latents run, or latest, the newest capture."] = "latest"
    site: Annotated[str | None, "Which site, where the run has several."] = None
    layers: Annotated[tuple[str, ...], "Captured layers, or all of them."] = (ALL,)
    labels: Annotated[str, "task, or a CSV file: document_id,label or document_id,token,label."] = (
        BY_TASK
    )
    kinds: Annotated[tuple[str, ...], f"Any of {', '.join(KINDS)}; or all."] = (ALL,)
    level: Annotated[
        Literal["document", "token"], "What is judged: documents, or each of their tokens."
    ] = "document"
    pool: Annotated[
        Literal["mean", "max", "last"],
        "How tokens become one vector, for kinds that read one per document.",
    ] = "mean"
    seeds: Annotated[int, "Splits and initial weights, from --seed on."] = 1

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_layers(self.layers)
        check_at_least("seeds", self.seeds, 1)
        if not self.kinds:
            raise UserError(f"--kinds is empty. Name any of {', '.join(KINDS)}; or all.")
        for kind in self.kinds:
            if kind not in (*KINDS, ALL):
                raise UserError(f"--kinds: there is no '{kind}'.{did_you_mean(kind, KINDS)}")
        if ALL in self.kinds and len(self.kinds) > 1:
            raise UserError("--kinds: 'all' names every kind already; leave the others out.")
        wrong = [kind for kind in self.chosen_kinds if KINDS[kind].needs_tokens]
        if self.level == "token" and wrong:
            raise UserError(
                f"--level token: {wrong[0]} judges whole documents; leave it out of --kinds."
            )
        if self.level == "token" and self.pool != "mean":
            raise UserError(f"--pool {self.pool}: with --level token nothing is pooled.")
        if self.labels != BY_TASK and not Path(self.labels).is_file():
            raise AbsentError(f"--labels {self.labels}: neither 'task' nor a file that exists.")

    @property
    def chosen_kinds(self) -> list[str]:
        """The kinds, in the order of their table."""
        if self.kinds != (ALL,):
            return [kind for kind in KINDS if kind in self.kinds]
        return [k for k in KINDS if self.level == "document" or not KINDS[k].needs_tokens]


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first fit.

    Attributes:
        run: of the activations.
        question: what is asked.
        labels_sha256: of the table; None for tasks.
        left_out: what of the run and of the table is not used, a line each.
        decided: what `auto` means on this machine.
    """

    run: Run
    question: "Question"
    labels_sha256: str | None
    left_out: list[str]
    decided: dict[str, Any]


def run(config: Config, out: RunWriter) -> None:
    """Write `probe.csv`, `predictions.csv` and `probes/`.

    Raises:
        UserError: a setting or an input is wrong (before anything is written), or an activation is
            no number.
    """
    from sdlms.models.device import set_threads

    plan = _plan(config, out)
    out.check_disk(_predicted_bytes(config, plan.question), "Name fewer --layers or --kinds.")
    decided = out.start(_resolved(plan), plan.decided)
    out.input(plan.run)
    set_threads(decided["threads"])
    _announce(plan, decided)
    _sweep(config, plan, decided, out)
    out.summary["documents"] = plan.question.acts.n_documents


def _plan(config: Config, out: RunWriter) -> Plan:
    """Check every setting and input; read what the run says of itself, and the labels."""
    from sdlms.acts.opening import load_acts
    from sdlms.models.device import decisions, device_of
    from sdlms.probes.question import ask
    from sdlms.storage.files import sha256_of

    decided = decisions(device_of(config.device), "float32", config.threads)
    run = find_run(out.options.artifacts, config.acts, "capture", "sae-latents")
    acts = _layers_of(config, run, load_acts(run, config.site))
    labelled = _labelled(config, acts)
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    question = ask(acts, labelled, seeds, by_token=config.level == "token")
    return Plan(
        run=run,
        question=question,
        labels_sha256=None if config.labels == BY_TASK else sha256_of(Path(config.labels)),
        left_out=_left_out(acts, labelled, question),
        decided={**decided, "kinds": config.chosen_kinds},
    )


def _layers_of(config: Config, run: Run, acts: "Acts") -> "Acts":
    """The captured layers that are asked about."""
    if config.layers == (ALL,):
        return acts
    n_layers = int(run.start["resolved"]["model"]["n_layers"])
    return acts.select_layers(layers_among(config.layers, acts.layers, n_layers, run.name))


def _labelled(config: Config, acts: "Acts") -> "Labelled":
    """The documents that have a class."""
    from sdlms.probes.labels import labelled_by_table, labelled_by_task
    from sdlms.storage.labels import read_labels

    if config.labels == BY_TASK:
        return labelled_by_task(acts.document_tasks)
    table = read_labels(Path(config.labels))
    labelled = labelled_by_table(table, acts.document_ids, acts.lengths)
    if labelled.tokens is not None and config.level == "document":
        raise UserError(f"--labels {config.labels} labels single tokens: add --level token.")
    return labelled


def _left_out(acts: "Acts", labelled: "Labelled", question: "Question") -> list[str]:
    """What of the run and of the table is not used, a line each."""
    n_all, n_labelled = acts.n_documents, len(labelled.documents)
    counts = {
        f"of {n_all:,} documents have no label": n_all - n_labelled,
        "rows of --labels name no document of the run": labelled.n_unmatched,
        f"of {n_labelled:,} documents have no labelled token that is neither special nor skipped": (
            n_labelled - question.acts.n_documents
        ),
    }
    return [f"{count:,} {what}: left out" for what, count in counts.items() if count]


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be."""
    question = plan.question
    read = plan.run.start["resolved"]
    return {
        "acts": plan.run.name,
        "model": read["model"],
        "control": read.get("control", "none"),
        "site": question.acts.site,
        "layers": list(question.layers),
        "labels": question.class_counts,
        "labels_sha256": plan.labels_sha256,
    }


def _predicted_bytes(config: Config, question: "Question") -> int:
    """What the run will take on disk, scratch files among it; a row of predictions is 80 bytes."""
    from sdlms.probes.controls import CONTROLS
    from sdlms.probes.stacks import probe_bytes

    kinds, n_members, n_examples = config.chosen_kinds, len(question.members), len(question.usable)
    n_units, n_pools = question.acts.n_units, 1 if config.pool == "mean" else 2
    pooled = 4 * n_pools * question.acts.n_documents * n_units * len(question.layers)
    scores = 4 * (len(kinds) + len(CONTROLS)) * n_members * n_examples
    rows = 80 * len(kinds) * n_members * n_examples // 5
    return pooled + scores + rows + n_members * sum(probe_bytes(kind, n_units) for kind in kinds)


def _announce(plan: Plan, decided: dict[str, Any]) -> None:
    """Log what will be told from what, and what was left out."""
    question = plan.question
    LOGGER.info(
        f"{plan.run.name}: {question.acts.site} at layers "
        f"{', '.join(str(layer) for layer in question.layers)}, {question.acts.n_units} units"
    )
    tokens = f"{int(question.usable.sum()):,} tokens of " if question.by_token else ""
    counts = ", ".join(f"{name} {count:,}" for name, count in question.class_counts.items())
    LOGGER.info(f"{tokens}{question.acts.n_documents:,} documents ({counts})")
    for line in plan.left_out:
        LOGGER.warning(line)
    LOGGER.info(f"device {decided['device']}, {decided['threads']} threads")


def _sweep(config: Config, plan: Plan, decided: dict[str, Any], out: RunWriter) -> None:
    """Fit kind after kind and the controls, then write the tables."""
    from sdlms.probes.controls import CONTROLS
    from sdlms.storage.scores import Scores

    question, kinds = plan.question, config.chosen_kinds
    with out.phase("pooling"):
        pooled = _pooled(config, question, out)
    everything = [*kinds, *CONTROLS]
    path, n_members = out.scratch / "scores.h5", len(question.members)
    with Scores(path, everything, n_members, len(question.usable)) as scores:
        sweep = _sweep_of(config, plan, decided, out, (pooled, scores))
        for kind in everything:
            with out.phase(kind):
                sweep.run(kind)
        with out.phase("tables"):
            _write_tables(sweep, kinds, out)


def _pooled(config: Config, question: "Question", out: RunWriter) -> "Acts | None":
    """One vector per document, in a scratch file; none where tokens are judged. Checks values."""
    from sdlms.acts.opening import load_acts
    from sdlms.probes.sweep import check_finite

    mean, chosen = out.scratch / "mean.h5", out.scratch / f"{config.pool}.h5"
    if not mean.exists():
        question.acts.mean_pool().save(mean)
    check_finite(load_acts(mean))
    if config.level == "token":
        return None
    if not chosen.exists():
        pool = {"max": question.acts.max_pool, "last": question.acts.last_pool}[config.pool]
        pool().save(chosen)
    return load_acts(chosen)


def _sweep_of(
    config: Config,
    plan: Plan,
    decided: dict[str, Any],
    out: RunWriter,
    data: "tuple[Acts | None, Scores]",
) -> "Sweep":
    """The sweep, with what it reports."""
    from sdlms.models.device import device_of
    from sdlms.probes.stacks import Workshop
    from sdlms.probes.sweep import Sweep

    def on_halved(at_once: int) -> None:
        LOGGER.warning(f"out of memory: {at_once} examples at once from now on")
        out.event("batch_halved", at_once=at_once)

    return Sweep(
        question=plan.question,
        pooled=data[0],
        scores=data[1],
        folder=out.path / "probes",
        workshop=Workshop(device_of(decided["device"]), out.scratch, on_halved),
        threads=decided["threads"],
        seed=config.seed,
    )


def _write_tables(sweep: "Sweep", kinds: list[str], out: RunWriter) -> None:
    """Write both tables, and log the best layer of each kind."""
    from sdlms.probes.controls import CONTROLS
    from sdlms.probes.scoring import COLUMNS, PREDICTION_COLUMNS, best_lines, metrics_row
    from sdlms.storage.tables import write_table

    rows = [metrics_row(judged) for judged in sweep.judged([*kinds, *CONTROLS])]
    write_table(out.path / TABLE, COLUMNS, rows)
    out.output(TABLE, columns=COLUMNS)
    write_table(out.path / PREDICTIONS, PREDICTION_COLUMNS, sweep.predictions(kinds))
    out.output(PREDICTIONS, columns=PREDICTION_COLUMNS)
    for line in best_lines(rows):
        LOGGER.info(line)

"""Measure how specialized units are for tasks and how modular they work together, against chance.

Reads a capture or a sae-latents run. Writes si_modularity.csv (one row per layer and task),
units.csv, controls.csv and thresholds.csv (specialization), communities.csv, community_tasks.csv,
resolutions.csv and graph_layer<n>.graphml (co-activation), and with --ablate what the model loses
without its most specialized units (ablation.csv, ablation_matrix.csv).
"""

from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

from sdlms.command import ComputeConfig
from sdlms.errors import UserError
from sdlms.models.layers import check_layers
from sdlms.models.settings import check_at_least
from sdlms.progress import LOGGER, Progress
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter
from sdlms.structure.threshold_rule import parse_threshold

if TYPE_CHECKING:
    from sdlms.structure.ablated_site import AblatedSite
    from sdlms.structure.ablation import Ablation
    from sdlms.structure.graphs import LayerGraphs
    from sdlms.structure.results import Results
    from sdlms.structure.study import Layer, Study
    from sdlms.structure.subject import Subject

STAGES = ("capture", "sae-latents")
CURVE = "thresholds.csv"
NULLS, ABLATE_TOKENS = 20, 20_000
MOST_TOP_EDGES = 5_000_000
GRAPHML_EDGE_BYTES, PART_EDGE_BYTES = 250, 60
ABLATION, MATRIX = "ablation.csv", "ablation_matrix.csv"


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the si-modularity stage."""

    acts: Annotated[str, "A capture or sae-latents run, or latest, the newest capture."] = "latest"
    site: Annotated[str | None, "Which site, where the run holds several."] = None
    layers: Annotated[tuple[str, ...], "Indices, percentages of the depth, or all."] = ("all",)
    controls: Annotated[
        tuple[str, ...], "Runs of the same documents made with capture --control."
    ] = ()
    threshold: Annotated[
        str, "A unit fires above: fixed:X, its own quantile:F, or auto, as the run was captured."
    ] = "auto"
    graph: Annotated[bool, "Make co-activation graphs too, or specialization alone."] = True
    top_edges: Annotated[int, "Edges of each graph, the strongest; 0: all significant ones."] = 0
    nulls: Annotated[int, "Draws of each null that a graph is compared with."] = NULLS
    ablate: Annotated[bool, "Run the model without its most specialized units."] = False
    ablate_tokens: Annotated[int, "Tokens that it is run on, in whole documents."] = ABLATE_TOKENS

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_layers(self.layers)
        parse_threshold(self.threshold)
        for name, least in (("top_edges", 0), ("nulls", 0), ("ablate_tokens", 1)):
            check_at_least(name, getattr(self, name), least)
        if self.top_edges > MOST_TOP_EDGES:
            raise UserError(f"--top-edges must be at most {MOST_TOP_EDGES:,}; 0 chooses.")
        idle = {} if self.graph else {"top_edges": 0, "nulls": NULLS}
        idle |= {} if self.ablate else {"ablate_tokens": ABLATE_TOKENS}
        for name, default in idle.items():
            if getattr(self, name) != default:
                without = "without --ablate" if name == "ablate_tokens" else "with --no-graph"
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} has nothing to do {without}. Leave one of them out.")


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first unit is measured.

    Attributes:
        runs: those that are read, the subject's first.
        subject: whose units are measured.
        controls: by name.
        ablated: what is ablated; None where nothing is.
        decided: what `auto` means on this machine, or meant where the run was begun.
    """

    runs: list[Run]
    subject: "Subject"
    controls: "dict[str, Subject]"
    ablated: "AblatedSite | None"
    decided: dict[str, Any]

    @property
    def louvain(self) -> str | None:
        """Name and version of the library that finds communities."""
        library = self.decided.get("louvain")
        return f"{library} {version(library)}" if library else None


def run(config: Config, out: RunWriter) -> None:
    """Write the tables and graphs.

    Raises:
        UserError: a setting or an input is wrong (before anything is written); a count matrix or
            the model does not fit the memory, an activation is no number, or the disk is full.
    """
    from sdlms.models.device import set_threads
    from sdlms.runs.parts import Parts
    from sdlms.structure.results import Results
    from sdlms.structure.study import Study

    plan = _plan(config, out)
    out.check_disk(_predicted_bytes(config, plan), "Name fewer --layers, or use --no-graph.")
    plan = replace(plan, decided=out.start(_resolved(plan), plan.decided))
    for read in plan.runs:
        out.input(read)
    set_threads(plan.decided["threads"])
    _announce(config, plan)
    parts = Parts(out.scratch / "parts")
    study = Study(plan.subject, plan.controls, config.seed, parts, out.scratch)
    layers = _measure(config, plan, study, out)
    graphs = _graphs(config, plan, study, layers, out) if config.graph else {}
    _write(Results(layers, graphs, plan.subject.rule.name, plan.subject.control), out)
    if plan.ablated is not None:
        _write_ablation(_ablation(config, plan, plan.ablated, out), study, layers, out)
    out.summary["tokens"] = plan.subject.n_tokens


def _plan(config: Config, out: RunWriter) -> Plan:
    """Check every setting and input; what the runs say of themselves is read."""
    artifacts = out.options.artifacts
    acts = find_run(artifacts, config.acts, *STAGES)
    controls = [find_run(artifacts, name, *STAGES) for name in config.controls]

    from sdlms.models.device import decisions, device_of
    from sdlms.structure.communities import louvain_library
    from sdlms.structure.controls import control_subjects
    from sdlms.structure.memory import check_counts_fit
    from sdlms.structure.subject import open_subject

    decided = decisions(device_of(config.device), config.dtype, config.threads)
    rule = parse_threshold(config.threshold)
    subject = open_subject(acts, config.site, config.layers, rule)
    if config.graph and not subject.has_firings:
        raise UserError(
            f"{acts.name} was captured with --no-save: which units fire together is not known. "
            "Use --no-graph, or capture without --no-save."
        )
    check_counts_fit(subject, len(controls))
    return Plan(
        runs=[acts, *controls],
        subject=subject,
        controls=control_subjects(subject, controls),
        ablated=_ablated(subject) if config.ablate else None,
        decided=decided | ({"louvain": louvain_library()} if config.graph else {}),
    )


def _ablated(subject: "Subject") -> "AblatedSite":
    """What is ablated."""
    from sdlms.structure.ablated_site import check_ablatable

    if len(subject.documents.task_names) < 2:
        raise UserError(
            f"--ablate: {subject.run.name} has one task, on which no unit can specialize. "
            "Leave --ablate out, or capture several --tasks."
        )
    return check_ablatable(subject.run, subject.site, subject.layers)


def _predicted_bytes(config: Config, plan: Plan) -> int:
    """What the run will take on disk, scratch files among it; tables are a guess."""
    from sdlms.structure.graphs import most_edges

    subject = plan.subject
    tables = 400 * subject.n_units * len(subject.layers)
    if not config.graph:
        return tables
    firings = subject.n_tokens * -(-subject.n_units // 8)
    n_edges = min(config.top_edges or most_edges(subject.n_units), subject.n_units**2 // 2)
    n_graphs = len(subject.documents.task_names) + 2  # each kept until the run is complete
    kept = (GRAPHML_EDGE_BYTES + PART_EDGE_BYTES * n_graphs) * n_edges * len(subject.layers)
    return tables + firings + kept


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be."""
    subject = plan.subject
    latents = subject.kind == "latent"
    return {
        **subject.record(),
        "kind": subject.kind,
        "encoded_site": subject.run.start["resolved"]["site"] if latents else None,
        "tasks": list(subject.documents.task_names),
        "controls": {name: control.run.name for name, control in plan.controls.items()},
        "louvain": plan.louvain,  # a resumed run must find the same communities
    }


def _announce(config: Config, plan: Plan) -> None:
    """Log what is measured, on what, and what is doubtful of it."""
    from sdlms.structure.doubts import announce_controls
    from sdlms.structure.firing import ALL
    from sdlms.structure.tables import warnings_of

    subject, documents = plan.subject, plan.subject.documents
    LOGGER.info(
        f"{subject.run.name}: {subject.n_units:,} {subject.kind}s of {subject.site} at layers "
        f"{', '.join(map(str, subject.layers))}; {subject.n_tokens:,} tokens in "
        f"{len(documents.ids):,} documents of {len(documents.task_names)} tasks"
    )
    beside = "".join(f", {name}: {each.run.name}" for name, each in plan.controls.items())
    LOGGER.info(f"threshold {subject.rule.name}, {plan.decided['threads']} threads{beside}")
    announce_controls(subject, plan.controls, latest=config.acts == "latest")
    if doubt := warnings_of(documents.by_task(), documents.tokens_by_task())[ALL]:
        LOGGER.warning(doubt)
    if config.graph and not config.nulls:
        LOGGER.warning(
            "--nulls 0: Q without its null says little, as any sparse graph has a high Q"
        )


def _measure(config: Config, plan: Plan, study: "Study", out: RunWriter) -> "list[Layer]":
    """How specialized the units of every layer are, also at other thresholds."""
    from sdlms.storage.tables import write_table
    from sdlms.structure.memory import check_graphs_fit
    from sdlms.structure.tables import CURVE_COLUMNS

    layers = plan.subject.layers
    total = len(layers) * study.n_measured
    with out.phase("specialization"), Progress("specialization", total, "layers") as progress:
        measured = study.measured(layers, progress.advance)
    if config.graph:  # how many units can have an edge is known only now
        check_graphs_fit([layer.counts for layer in measured])
    with out.phase("thresholds"), Progress("thresholds", len(layers), "layers") as progress:
        curve = []
        for layer in measured:
            curve += study.curve(layer)
            progress.advance(1)
    write_table(out.path / CURVE, CURVE_COLUMNS, curve)
    out.output(CURVE, columns=CURVE_COLUMNS)
    return measured


def _graphs(
    config: Config, plan: Plan, study: "Study", layers: "list[Layer]", out: RunWriter
) -> "dict[int, LayerGraphs]":
    """Graphs and communities of every layer, and their nulls."""
    from sdlms.structure.graphs import GraphSettings

    drawn = config.nulls, config.top_edges, config.seed
    settings = GraphSettings(*drawn, plan.decided["louvain"], plan.decided["device"])
    total = 2 * config.nulls * len(layers)
    with out.phase("graphs"), Progress("graph nulls", total, "draws") as progress:
        return study.all_graphs(layers, settings, progress.advance)


def _write(results: "Results", out: RunWriter) -> None:
    """Every table and graph."""
    from sdlms.storage.tables import write_table

    with out.phase("tables"):
        for table in results.tables():
            write_table(out.path / table.name, table.columns, table.rows)
            out.output(table.name, columns=table.columns)
        for name in results.write_graphs(out.path):
            out.output(name)


def _ablation(config: Config, plan: Plan, site: "AblatedSite", out: RunWriter) -> "Ablation":
    """What runs the model without some of its units."""
    from sdlms.models.device import DTYPES, device_of
    from sdlms.structure.ablation import Ablation, Compute

    return Ablation(
        site=site,
        task_names=plan.subject.documents.task_names,
        tokens=config.ablate_tokens,
        seed=config.seed,
        compute=Compute(device_of(plan.decided["device"]), DTYPES[plan.decided["dtype"]]),
        on_halved=lambda budget: out.event("batch_halved", batch_tokens=budget),
    )


def _write_ablation(
    ablation: "Ablation", study: "Study", layers: "list[Layer]", out: RunWriter
) -> None:
    """Run the model without the most specialized units of each layer."""
    from sdlms.storage.tables import write_table
    from sdlms.structure.ablation_rows import COLUMNS, MATRIX_COLUMNS

    found = []
    with out.phase("ablation"):
        for each in layers:
            work = partial(ablation.layer, each.layer, each.own.units)
            found.append(study.parts.once(f"layer_{each.layer}_ablation", work))
    for file, key, columns in ((ABLATION, "rows", COLUMNS), (MATRIX, "matrix", MATRIX_COLUMNS)):
        write_table(out.path / file, columns, [row for part in found for row in part[key]])
        out.output(file, columns=columns)

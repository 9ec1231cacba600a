"""Keep only some neurons per token: what it costs in perplexity, and what it gains in speed.

Quality is measured with masks, speed only where the skipped weights are really not read. Writes
dynamic_k.csv (one row per rule, kept fraction, phase, task and seed) and critical.csv (the largest
sparsity that costs 1 % of perplexity); with --si specialized_units.csv, with --sae latents.csv.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdlms.command import ComputeConfig
from sdlms.dynamic.settings import check_force, check_idle, check_needs, check_prompt, check_rules
from sdlms.models.architectures import n_layers
from sdlms.models.gating.rules import RULES
from sdlms.models.layers import DEFAULT_LAYERS, check_layers, layers_of
from sdlms.models.settings import check_at_least
from sdlms.progress import LOGGER
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter
from sdlms.tasks import Task, check_sources, load_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from sdlms.dynamic.beside import Beside
    from sdlms.dynamic.results import Results
    from sdlms.dynamic.study import Study
    from sdlms.dynamic.windows import Drawn, WindowSettings
    from sdlms.models.loading import ModelSource

DEFAULT_TASKS = ("heldout",)
NO_LAYERS = ("none",)
PART_DOCUMENT_BYTES = 60
IDLE = {"quality": ("rounds",), "speed": ("layers", "sae", "force_sparse_at_one"), "both": ()}
KEEP = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the dynamic-k stage."""

    model: Annotated[str, "Embedded name, local folder, or hub id."] = "sdlms-medium"
    revision: Annotated[str | None, "Branch, tag or commit of a hub model."] = None
    tasks: Annotated[tuple[str, ...], "A manifest, or names of tasks of probe."] = DEFAULT_TASKS
    texts: Annotated[Path | None, "A text, .jsonl or .parquet file to read instead."] = None
    field: Annotated[str, "Key of the text in a .jsonl or .parquet file."] = "text"
    keep: Annotated[tuple[float, ...], "Fractions of the neurons that are kept, in (0, 1]."] = KEEP
    rule: Annotated[tuple[str, ...], f"Which are kept; any of {', '.join(RULES)}."] = ("post-norm",)
    seeds: Annotated[int, "How many choices of windows and calibration text."] = 3
    measure: Annotated[
        Literal["quality", "speed", "both"], "Perplexity, tokens per second, or both."
    ] = "both"
    backend: Annotated[
        Literal["auto", "torch", "compiled"],
        "What skips the work; auto is the compiled kernel where it can be built.",
    ] = "auto"
    window: Annotated[int, "Tokens of a window; 0 is 512, or the context where shorter."] = 0
    stride: Annotated[int, "Tokens of a window that are scored; 0 is half of it."] = 0
    max_tokens: Annotated[int, "Scored tokens per task and seed."] = 5_000
    calibration_tokens: Annotated[int, "Tokens that rules learn from, apart from the scored."] = (
        4096
    )
    layers: Annotated[
        tuple[str, ...], "Layers whose own critical sparsity is measured, one at a time; or none."
    ] = DEFAULT_LAYERS
    rounds: Annotated[int, "Rounds of timing; medians are over rounds."] = 5
    si: Annotated[
        str | None, "A si-modularity run: its specialised units, and blocks for the rule blocks."
    ] = None
    sae: Annotated[str | None, "A sae-train run: what becomes of its latents."] = None
    force_sparse_at_one: Annotated[
        bool, "At 1.0 run the sparse kernel on all neurons: its own error."
    ] = False
    batch_tokens: Annotated[int, "Tokens in a batch; 0 chooses."] = 0

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_rules(self.rule, self.keep)
        if self.layers != NO_LAYERS:
            check_layers(self.layers)
        least = {"seeds": 1, "rounds": 1, "max_tokens": 1, "window": 0, "stride": 0}
        for name, bound in {**least, "calibration_tokens": 0, "batch_tokens": 0}.items():
            check_at_least(name, getattr(self, name), bound)
        check_sources(self.tasks, self.texts, self.field, *DEFAULT_TASKS)
        check_needs(self.rule, self.si, self.calibration_tokens)
        check_force(self.force_sparse_at_one, self.rule, self.keep)
        check_idle(self.measure, self._set(*IDLE[self.measure]))

    def _set(self, *names: str) -> list[str]:
        """Flags of those fields that are not as they are by default."""
        defaults = {field.name: field.default for field in fields(self)}
        changed = [name for name in names if getattr(self, name) != defaults[name]]
        return [f"--{name.replace('_', '-')}" for name in changed]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known before the model is loaded.

    Attributes:
        source: where the model is.
        model_config: its config.
        record: the model as meta.jsonl has it.
        tasks: what was read of each task.
        windows: how text is cut.
        drawn: what each seed reads.
        layers: that are also gated alone.
        beside: what `--si` and `--sae` name.
        decided: what `auto` means on this machine, or meant where the run was begun.
    """

    source: "ModelSource"
    model_config: "PreTrainedConfig"
    record: dict[str, Any]
    tasks: list[Task]
    windows: "WindowSettings"
    drawn: "dict[int, Drawn]"
    layers: list[int]
    beside: "Beside"
    decided: dict[str, Any]


def run(config: Config, out: RunWriter) -> None:
    """Write the tables.

    Raises:
        UserError: a setting or an input is wrong (before anything is written); or a single window
            does not fit the memory, or the disk is full.
    """
    from sdlms.dynamic.sweeps import measure_quality, measure_speed
    from sdlms.dynamic.writing import write_beside, write_results
    from sdlms.models.device import set_threads

    plan = _plan(config, out)
    out.check_disk(_predicted_bytes(config, plan), "Lower --max-tokens, or name fewer --rule.")
    plan = replace(plan, decided=out.start(_resolved(plan), plan.decided))
    for read in plan.beside.runs:
        out.input(read)
    set_threads(plan.decided["threads"])
    _announce(config, plan)
    study = _study(config, plan, out)
    if config.measure != "speed":
        measure_quality(study, out)
    if config.measure != "quality":
        measure_speed(study, out)
    write_results(_results(config, plan, study), out)
    if config.measure != "speed":
        write_beside(plan.beside, study, config.seed, out)
    out.summary["tokens"] = sum(int(each.windows.scored.sum()) for each in plan.drawn.values())


def _plan(config: Config, out: RunWriter) -> Plan:
    """Check every setting and input; read the documents and cut them."""
    from sdlms.dynamic.beside import read_beside
    from sdlms.dynamic.reading import read_text, resolved_windows
    from sdlms.dynamic.windows import WindowSettings
    from sdlms.models.architectures import check_causal
    from sdlms.models.inputs import read_model
    from sdlms.models.recorded import model_record
    from sdlms.models.tokens import Text

    runs = _named_runs(config, out.options.artifacts)
    decided = _decisions(config)  # cheap; the kernel is built when all else has been checked
    source, model_config = read_model(config.model, config.revision)
    check_causal(model_config)
    cut = config.window, config.stride, config.max_tokens, config.calibration_tokens
    windows = resolved_windows(WindowSettings(*cut), model_config)
    check_prompt(config.rule, windows.window, windows.stride)
    alone = [] if config.layers == NO_LAYERS else layers_of(config.layers, n_layers(model_config))
    tasks = load_tasks(config.tasks, config.texts, config.field)
    texts = [[Text(item.id, task.name, item.text) for item in task.documents] for task in tasks]
    seeds = range(config.seed, config.seed + config.seeds)
    drawn = read_text(source, model_config, texts, windows, seeds)
    record = model_record(source, model_config)
    names = [task.name for task in tasks]
    beside = read_beside(runs, record, model_config, config.rule, names)
    decided |= _backend(config)
    return Plan(source, model_config, record, tasks, windows, drawn, alone, beside, decided)


def _named_runs(config: Config, artifacts: Path) -> dict[str, Run]:
    """The runs that `--si` and `--sae` name, by their stage."""
    named = (("si-modularity", config.si), ("sae-train", config.sae))
    return {stage: find_run(artifacts, run, stage) for stage, run in named if run is not None}


def _decisions(config: Config) -> dict[str, Any]:
    """What `auto` means on this machine, decided by capability."""
    from sdlms.models.batching import DEFAULT_BUDGET
    from sdlms.models.device import decisions, device_of

    device = device_of(config.device)
    batch_tokens = config.batch_tokens or DEFAULT_BUDGET[device.type]
    return {**decisions(device, config.dtype, config.threads), "batch_tokens": batch_tokens}


def _backend(config: Config) -> dict[str, Any]:
    """What skips the work, where any is skipped; builds the kernel."""
    from sdlms.models.device import device_of, dtype_of
    from sdlms.models.gating.backends import backend_of

    if config.measure == "quality" and not config.force_sparse_at_one:
        return {}
    device, reasons = device_of(config.device), list[str]()
    dtype = dtype_of(config.dtype, device)
    name = backend_of(config.backend, dtype, device, reasons.append).name
    return {"backend": name, "backend_reason": reasons[0] if reasons else None}


def _predicted_bytes(config: Config, plan: Plan) -> int:
    """What the run will take on disk, parts among it."""
    n_documents = sum(len(each.windows.document_ids) for each in plan.drawn.values())
    below = sum(keep < 1 for keep in config.keep)
    n_parts = 1 + len(config.rule) * (below * (1 + len(plan.layers)) + 1)
    return n_documents * n_parts * PART_DOCUMENT_BYTES


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be, with their hashes."""
    from sdlms.dynamic.doubts import continued_fraction

    return {
        "model": plan.record,
        "data": [task.record() for task in plan.tasks],
        "window": plan.windows.window,
        "stride": plan.windows.stride,
        "layers": plan.layers,
        "runs": [run.name for run in plan.beside.runs],
        "continued": {str(seed): continued_fraction(n.windows) for seed, n in plan.drawn.items()},
        "tokens": {str(seed): int(n.windows.scored.sum()) for seed, n in plan.drawn.items()},
        "control": "none",
    }


def _announce(config: Config, plan: Plan) -> None:
    """Log what will be measured, and what is doubtful of it."""
    from sdlms.dynamic.doubts import doubts_of
    from sdlms.models.device import announcement, device_of

    LOGGER.info(announcement(device_of(plan.decided["device"]), plan.decided))
    n_scored = sum(int(each.windows.scored.sum()) for each in plan.drawn.values())
    LOGGER.info(
        f"{plan.source.name}: {n_scored:,} tokens scored in {len(plan.drawn)} seeds, windows of "
        f"{plan.windows.window} tokens, {plan.windows.stride} from one to the next"
    )
    for doubt in doubts_of(config.rule, plan.drawn, plan.beside.blocks):
        LOGGER.warning(doubt)
    if reason := plan.decided.get("backend_reason"):
        LOGGER.warning(f"no compiled kernel, torch instead: {reason}")


def _study(config: Config, plan: Plan, out: RunWriter) -> "Study":
    """The model and what is measured of it."""
    from sdlms.dynamic.study import Study, StudySettings
    from sdlms.models.device import DTYPES, device_of
    from sdlms.models.loading import load_causal_model
    from sdlms.runs.parts import Parts

    decided = plan.decided
    settings = StudySettings(
        rules=tuple(dict.fromkeys(config.rule)),
        # To six digits, by which parts are named: two that differ by less are one.
        keeps=tuple(sorted({float(f"{keep:g}") for keep in config.keep})),
        layers=tuple(plan.layers),
        seeds=tuple(plan.drawn),
        backend=decided.get("backend", "auto"),
        rounds=config.rounds,
        budget=decided["batch_tokens"],
        force_at_one=config.force_sparse_at_one,
    )
    model = load_causal_model(plan.source, DTYPES[decided["dtype"]], device_of(decided["device"]))
    parts, halved = Parts(out.scratch / "parts"), partial(_note_halved, out)
    return Study(model, plan.drawn, plan.beside.blocks, settings, parts, halved)


def _note_halved(out: RunWriter, budget: int) -> None:
    """Record that memory ran out."""
    out.event("batch_halved", batch_tokens=budget)


def _results(config: Config, plan: Plan, study: "Study") -> "Results":
    """What was measured."""
    from sdlms.dynamic.results import Results
    from sdlms.models.gating.costs import costs_of

    return Results(
        study=study,
        costs=costs_of(plan.model_config),
        task_names=[task.name for task in plan.tasks],
        window=plan.windows.window,
        seed=config.seed,
        has_quality=config.measure != "speed",
        has_speed=config.measure != "quality",
    )

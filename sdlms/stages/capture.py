"""Capture a model's activations on probe tasks and measure how sparse they are.

Writes activations.h5 (every token's activations), counts.h5 (firing counts per unit and document)
and sparsity.csv (one row per layer, site and task).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdlms.command import ComputeConfig
from sdlms.models.architectures import SITES, n_layers
from sdlms.models.layers import DEFAULT_LAYERS, check_layers, layers_of
from sdlms.models.settings import check_at_least, check_batching, check_sites
from sdlms.progress import LOGGER
from sdlms.runs.writing import RunWriter
from sdlms.tasks import DEFAULT_MANIFEST, Task, check_sources, load_tasks, warn_of_dropped

if TYPE_CHECKING:
    import torch

    from sdlms.acts.capturing import Capturing
    from sdlms.acts.statistics import Rule
    from sdlms.models.inputs import Inputs
    from sdlms.storage.activations import Header, Key
    from sdlms.storage.rows import Rows

ACTIVATIONS = "activations.h5"
COUNTS = "counts.h5"
SPARSITY = "sparsity.csv"
FEWEST_SAMPLED = 1000


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the capture stage."""

    model: Annotated[str, "Embedded name, local folder, or hub id."] = "sdlms-medium"
    revision: Annotated[str | None, "Branch, tag or commit of a hub model."] = None
    tasks: Annotated[
        tuple[str, ...], "A manifest (embedded name or path), or task names of the default one."
    ] = (DEFAULT_MANIFEST,)
    texts: Annotated[Path | None, "A text, .jsonl or .parquet file to read instead."] = None
    field: Annotated[str, "Key of the text in a .jsonl or .parquet file."] = "text"
    layers: Annotated[tuple[str, ...], "Indices, percentages of the depth, or all."] = (
        DEFAULT_LAYERS
    )
    site: Annotated[tuple[str, ...], f"Any of {', '.join(SITES)}."] = ("mlp_act",)
    max_tokens: Annotated[int, "Tokens per task, in whole documents."] = 20_000
    skip_first: Annotated[int, "Positions at a document's start that statistics skip."] = 0
    save: Annotated[bool, "Write activations.h5, or only statistics."] = True
    store_dtype: Annotated[
        Literal["auto", "float16", "float32", "bfloat16"],
        "Stored type; auto is float16 for neurons, bfloat16 for residual-like sites.",
    ] = "auto"
    batch_tokens: Annotated[int, "Tokens in a batch, padding included; 0 chooses."] = 0
    free_memory: Annotated[
        str, "Left free on CUDA where batches are chosen: 8GB, 10%; auto is the less of these two."
    ] = "auto"
    device_map: Annotated[
        Literal["none", "auto"], "auto spreads a large model over all devices (needs accelerate)."
    ] = "none"
    control: Annotated[
        Literal["none", "reinit", "permute-tokens"],
        "reinit: fresh weights; permute-tokens: each document's tokens shuffled.",
    ] = "none"

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_layers(self.layers)
        check_sites(self.site)
        for name, least in (("max_tokens", 1), ("skip_first", 0), ("batch_tokens", 0)):
            check_at_least(name, getattr(self, name), least)
        check_batching(self.batch_tokens, self.free_memory, self.device_map)
        check_sources(self.tasks, self.texts, self.field)


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the model is loaded.

    Attributes:
        inputs: model and tokens.
        device: where the model will run, unless it is spread.
        header: what is stored, with the width of each site and layer.
        rules: how each site and layer is measured.
        sample: documents from which thresholds are estimated; empty when all are fixed.
        tasks: what was read of each task.
    """

    inputs: "Inputs"
    device: "torch.device"
    header: "Header"
    rules: "dict[Key, Rule]"
    sample: list[int]
    tasks: list[Task]

    @property
    def rows(self) -> "Rows":
        """Tokens and documents."""
        return self.inputs.tokens.rows


def run(config: Config, out: RunWriter) -> None:
    """Write `activations.h5`, `counts.h5` and `sparsity.csv`.

    Raises:
        UserError: a setting or an input is wrong (before anything is written); or a value
            overflows the stored type, the disk is full, one document does not fit the memory.
    """
    plan = _plan(config)
    out.check_disk(
        _predicted_bytes(config, plan), "Lower --max-tokens, name fewer --layers, or use --no-save."
    )
    decided = out.start(_resolved(config, plan), _decisions(config, plan))
    _announce(config, plan, decided, out)
    capturing = _load(config, plan, decided, out)
    if config.save:
        _save(plan, capturing, out)
    else:
        _stream(plan, capturing, out)
    _tabulate(plan, out)
    out.summary["tokens"] = plan.rows.n_tokens


def _plan(config: Config) -> Plan:
    """Check every setting and input; read and tokenise the documents."""
    from sdlms.acts.statistics import SAMPLE_TOKENS, rule_of
    from sdlms.models.device import check_free_memory_on, device_of, dtype_of
    from sdlms.models.inputs import header_of, read_inputs, read_model
    from sdlms.models.spreading import check_device_map
    from sdlms.models.tokens import Budget, Text, check_readable, documents_within
    from sdlms.storage.counts import masked_lengths

    device = device_of(config.device)
    dtype_of(config.dtype, device)
    check_free_memory_on(device, config.free_memory)
    check_device_map(config.device_map, config.device)
    reinit_seed = config.seed if config.control == "reinit" else None
    source, model_config = read_model(config.model, config.revision, reinit_seed)
    layers = layers_of(config.layers, n_layers(model_config))
    dtype, control = config.store_dtype, config.control
    header = header_of(source, model_config, config.site, layers, dtype, control)
    tasks = load_tasks(config.tasks, config.texts, config.field)
    texts = [[Text(item.id, task.name, item.text) for item in task.documents] for task in tasks]
    permute = control == "permute-tokens"
    budget = Budget(config.max_tokens, config.skip_first, config.seed, permute)
    inputs = read_inputs(source, model_config, texts, budget)
    rules = {
        key: rule_of(key[0], header.activation_function, gated=header.gated) for key in header.units
    }
    readable = masked_lengths(inputs.tokens.rows)
    check_readable(inputs.tokens.rows, readable)
    fixed = all(rule.fixed_threshold for rule in rules.values())
    sample = [] if fixed else documents_within(readable, SAMPLE_TOKENS, config.seed)
    return Plan(inputs, device, header, rules, sample, tasks)


def _predicted_bytes(config: Config, plan: Plan) -> int:
    """What the run will take on disk, scratch files among it."""
    from sdlms.storage.activations import predicted_bytes

    sampled = int(plan.rows.lengths[plan.sample].sum())
    counts = 4 * plan.rows.n_documents * sum(plan.header.units.values())
    return counts + predicted_bytes(plan.header, plan.rows.n_tokens if config.save else sampled)


def _resolved(config: Config, plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be, with their hashes."""
    captured = plan.rows.document_tasks
    data = [{**task.record(), "n_captured": captured.count(task.name)} for task in plan.tasks]
    return {"model": plan.inputs.model_record(), "data": data, "control": config.control}


def _decisions(config: Config, plan: Plan) -> dict[str, Any]:
    """What `auto` means on this machine, decided by capability."""
    from sdlms.models.batching import DEFAULT_BUDGET
    from sdlms.models.device import decisions
    from sdlms.models.spreading import decided_modules

    modules, device = decided_modules(
        config.device_map, plan.inputs.config, config.dtype, config.free_memory, plan.device
    )
    return {
        **decisions(device, config.dtype, config.threads),
        "device_map": modules,
        "batch_tokens": config.batch_tokens or DEFAULT_BUDGET[device.type],
        "layers": plan.header.layers,
        "store_dtype": plan.header.store_dtype,
    }


def _announce(config: Config, plan: Plan, decided: dict[str, Any], out: RunWriter) -> None:
    """Log what will happen, and what was left out of the documents."""
    from sdlms.models.device import announcement, device_of
    from sdlms.models.tokens import warn_of_truncation

    LOGGER.info(
        f"{plan.header.model}: {', '.join(plan.header.sites)} at layers "
        f"{', '.join(str(layer) for layer in plan.header.layers)}; "
        f"{plan.rows.n_tokens:,} tokens in {plan.rows.n_documents:,} documents"
    )
    if config.control != "none":
        LOGGER.info(f"a control, not the model itself: {config.control}, seed {config.seed}")
    LOGGER.info(announcement(device_of(decided["device"]), decided))
    warn_of_dropped(plan.tasks)
    warn_of_truncation(plan.inputs.tokens)
    if (truncated := plan.inputs.tokens.truncated) and not out.resumed:
        out.event("document_truncated", count=len(truncated), tokens_cut=truncated)
    n_sampled = int(plan.rows.lengths[plan.sample].sum())
    if plan.sample and n_sampled < FEWEST_SAMPLED:
        LOGGER.warning(f"thresholds rest on {n_sampled} tokens only: firing rates mean little")


def _load(config: Config, plan: Plan, decided: dict[str, Any], out: RunWriter) -> "Capturing":
    """Load the model, to work as was decided and as an interrupted try found the memory to be."""
    from sdlms.acts.capturing import Capturing
    from sdlms.models.device import DTYPES, set_threads
    from sdlms.models.loading import load_base_model
    from sdlms.models.spreading import Spread, cuda_devices

    set_threads(decided["threads"])
    modules = decided["device_map"]
    spread = Spread(modules, out.scratch / "offload") if modules else None
    capturing = Capturing(
        model=load_base_model(plan.inputs.source, DTYPES[decided["dtype"]], plan.device, spread),
        header=plan.header,
        threads=decided["threads"],
        budget=decided["batch_tokens"],
        scratch=out.scratch,
        on_halved=lambda budget: out.event("batch_halved", batch_tokens=budget),
    )
    if earlier := [*out.events("budget_calibrated"), *out.events("batch_halved")]:
        capturing.budget = earlier[-1]["batch_tokens"]
    elif cuda_devices(capturing.model) and not config.batch_tokens:
        capturing.calibrate(plan.rows, config.free_memory)
        out.event("budget_calibrated", batch_tokens=capturing.budget)
    return capturing


def _save(plan: Plan, capturing: "Capturing", out: RunWriter) -> None:
    """One forward that stores everything; statistics are then read from the file."""
    from sdlms.acts.statistics import estimate_thresholds, measure_file
    from sdlms.storage.counts import create_counts
    from sdlms.storage.flat import FlatWriter

    path = out.path / ACTIVATIONS
    with out.phase("forward"):
        capturing.save(path, plan.rows, "capture")
    out.output(ACTIVATIONS)  # hashed in the background from here on
    create_counts(out.path / COUNTS, plan.header.units, plan.rows, plan.sample)
    with FlatWriter(out.path / COUNTS) as counts:
        with out.phase("thresholds"):
            estimate_thresholds(path, counts, plan.rules, plan.sample, capturing.threads)
        with out.phase("statistics"):
            measure_file(path, counts, plan.rows, plan.rules, capturing.threads)


def _stream(plan: Plan, capturing: "Capturing", out: RunWriter) -> None:
    """Statistics only: a forward over the threshold sample, then one over everything."""
    from sdlms.acts.statistics import estimate_thresholds
    from sdlms.storage.counts import create_counts
    from sdlms.storage.flat import FlatWriter

    if not (out.path / COUNTS).exists():
        create_counts(out.path / COUNTS, plan.header.units, plan.rows, plan.sample)
    path = out.scratch / ACTIVATIONS
    with FlatWriter(out.path / COUNTS) as counts:
        with out.phase("threshold_sample"):
            if plan.sample:
                capturing.save(path, plan.rows.subset(plan.sample), "threshold sample")
            estimate_thresholds(path, counts, plan.rules, None, capturing.threads)
        with out.phase("forward"):
            capturing.measure(counts, plan.rows, plan.rules)


def _tabulate(plan: Plan, out: RunWriter) -> None:
    """Write `sparsity.csv` from `counts.h5`."""
    from sdlms.acts.sparsity import COLUMNS, sparsity_rows
    from sdlms.storage.tables import write_table

    out.output(COUNTS)
    tasks = [task.name for task in plan.tasks]
    with out.phase("table"):
        rows = sparsity_rows(out.path / COUNTS, plan.rules, tasks)
        write_table(out.path / SPARSITY, COLUMNS, rows)
    out.output(SPARSITY, columns=COLUMNS)

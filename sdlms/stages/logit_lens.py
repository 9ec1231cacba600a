"""Read every layer's residual stream as a prediction of the next token: the logit lens.

Writes lens.h5 (each token's most probable continuations, entropy, rank and log-probability of the
actual next token, KL to the final layer, state by state) and logit_lens.csv (means per layer and
task); with --target targets.csv, with --tuned the lens that was trained.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sdlms.command import ComputeConfig
from sdlms.lens import settings
from sdlms.lens.settings import TUNED_FOLDER
from sdlms.lens.states import states_of
from sdlms.models.architectures import n_layers, n_units
from sdlms.models.layers import ALL, check_layers, layers_of
from sdlms.models.settings import check_at_least
from sdlms.options import Verbatim, dashed
from sdlms.runs.writing import RunWriter
from sdlms.tasks import DEFAULT_MANIFEST, Task, check_sources, load_tasks, warn_of_dropped

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from sdlms.lens.streaming import Measuring
    from sdlms.lens.study import Study
    from sdlms.lens.tuned import Tuned
    from sdlms.lens.tuned_source import TrainingText
    from sdlms.models.inputs import Inputs
    from sdlms.models.loading import ModelSource
    from sdlms.models.tokens import Budget

TUNED_TASKS = ("heldout",)
OF_TRAINING = ("tuned_tasks", "tuned_tokens", "tuned_steps")
STEP_TOKENS = 2048  # that an update of --tuned reads


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the logit-lens stage."""

    model: Annotated[str, "Embedded name, local folder, or hub id."] = "sdlms-medium"
    revision: Annotated[str | None, "Branch, tag or commit of a hub model."] = None
    tasks: Annotated[
        tuple[str, ...], "A manifest (embedded name or path), or task names of the default one."
    ] = (DEFAULT_MANIFEST,)
    texts: Annotated[Path | None, "A text, .jsonl or .parquet file to read instead."] = None
    field: Annotated[str, "Key of the text in a .jsonl or .parquet file."] = "text"
    layers: Annotated[tuple[str, ...], "Indices, percentages of the depth, or all."] = ALL
    mid: Annotated[bool, "Also look after each attention, inside the block."] = False
    top_k: Annotated[int, "Most probable tokens that are kept."] = 10
    target: Annotated[
        tuple[Verbatim, ...],
        r"Tokens to follow everywhere, spaces kept: ' Paris, Rome'; '\,' is a comma.",
    ] = ()
    max_tokens: Annotated[int, "Tokens per task, in whole documents."] = 20_000
    skip_first: Annotated[int, "Positions at a document's start that means skip."] = 0
    tuned: Annotated[bool, "Train a tuned lens, and look through it too."] = False
    tuned_lens: Annotated[
        str | None, "Look through this one too: a folder, or a logit-lens run that trained it."
    ] = None
    tuned_tasks: Annotated[tuple[str, ...], "What --tuned trains on; as --tasks."] = TUNED_TASKS
    tuned_tokens: Annotated[int, "Tokens per task that --tuned reads."] = 50_000
    tuned_steps: Annotated[int, "Updates of --tuned."] = 250
    unembed: Annotated[
        Literal["auto", "float32", "bfloat16"],
        "Type of the product with the vocabulary; bfloat16 scores the likeliest in float32.",
    ] = "auto"
    batch_tokens: Annotated[int, "Tokens in a batch, padding included; 0 chooses."] = 0

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_layers(self.layers)
        least = {"max_tokens": 1, "top_k": 1, "tuned_tokens": 1, "tuned_steps": 1}
        for name, bound in {**least, "skip_first": 0, "batch_tokens": 0}.items():
            check_at_least(name, getattr(self, name), bound)
        check_sources(self.tasks, self.texts, self.field)
        changed = [
            f"--{dashed(field.name)}"
            for field in fields(self)
            if field.name in OF_TRAINING and getattr(self, field.name) != field.default
        ]
        settings.check_tuned(train=self.tuned, saved=self.tuned_lens, mid=self.mid, changed=changed)


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known before the model is loaded.

    Attributes:
        study: what is measured.
        tasks: what was read of each task.
        decided: what `auto` means on this machine, or meant where the run was begun.
    """

    study: "Study"
    tasks: list[Task]
    decided: dict[str, Any]


def run(config: Config, out: RunWriter) -> None:
    """Write `lens.h5` and the tables.

    Raises:
        UserError: a setting or an input is wrong (before anything is written); or a single document
            does not fit the memory, a state is not finite, or the disk is full.
    """
    from sdlms.lens.announcing import announce

    plan = _plan(config, out)
    needed = plan.study.predicted_bytes(len(plan.tasks))
    out.check_disk(needed, "Lower --max-tokens or --top-k, or name fewer --layers.")
    plan = replace(plan, decided=out.start(_resolved(plan), plan.decided))
    if (saved := plan.study.saved) is not None and saved[0].run is not None:
        out.input(saved[0].run)
    warn_of_dropped(plan.tasks)
    announce(plan.study, plan.decided, out)
    measuring = _load(config, plan, out)
    with out.phase("forward"):
        _measure(plan, measuring, out)
    _tabulate(config, plan, out)
    out.summary["tokens"] = plan.study.rows.n_tokens


def _plan(config: Config, out: RunWriter) -> Plan:
    """Check every setting and input; read and tokenise the documents."""
    from sdlms.lens.study import Study
    from sdlms.lens.targets import targets_of
    from sdlms.lens.tuned_source import find_tuned
    from sdlms.models.architectures import check_causal, text_config
    from sdlms.models.inputs import read_model
    from sdlms.models.loading import load_tokenizer
    from sdlms.models.recorded import model_record
    from sdlms.models.tokens import Budget, check_readable
    from sdlms.storage.counts import masked_lengths

    named = None
    if config.tuned_lens is not None:
        named = find_tuned(out.options.artifacts, config.tuned_lens)
    source, model_config = read_model(config.model, config.revision)
    check_causal(model_config)
    if config.mid:
        settings.check_mid(model_config)
    depth = n_layers(model_config)
    layers = layers_of(config.layers, depth)
    states = states_of(depth, layers, with_mid="attention" if config.mid else "blocks")
    decided = _decisions(config, model_config)
    tokenizer = load_tokenizer(source)
    targets = targets_of(tokenizer, int(text_config(model_config).vocab_size), config.target)
    tasks = load_tasks(config.tasks, config.texts, config.field)
    budget = Budget(config.max_tokens, config.skip_first, config.seed)
    inputs = _read(source, model_config, tasks, budget)
    check_readable(inputs.tokens.rows, masked_lengths(inputs.tokens.rows))
    training = _training(config, inputs) if config.tuned else None
    record, d_model = model_record(source, model_config), n_units(model_config, "resid_post")
    saved = None if named is None else (named, named.read(record, d_model))
    known = inputs, record, tokenizer, states, config.top_k, targets, saved, training
    return Plan(Study(*known), tasks, decided)


def _decisions(config: Config, model_config: "PreTrainedConfig") -> dict[str, Any]:
    """What `auto` means on this machine, decided by capability."""
    from sdlms.lens.backends import decided_backend
    from sdlms.lens.unembedding import unembed_dtype_for
    from sdlms.models.batching import DEFAULT_BUDGET
    from sdlms.models.device import decisions, device_of, dtype_of

    device = device_of(config.device)
    unembed = unembed_dtype_for(config.unembed, device, model_config)
    return {
        **decisions(device, config.dtype, config.threads),
        "batch_tokens": config.batch_tokens or DEFAULT_BUDGET[device.type],
        "unembed": unembed,
        **decided_backend(unembed, dtype_of(config.dtype, device)),
    }


def _read(
    source: "ModelSource", model_config: "PreTrainedConfig", tasks: list[Task], budget: "Budget"
) -> "Inputs":
    """Tokenise documents, at most so many tokens of each task."""
    from sdlms.models.inputs import read_inputs
    from sdlms.models.tokens import Text

    texts = [[Text(item.id, task.name, item.text) for item in task.documents] for task in tasks]
    return read_inputs(source, model_config, texts, budget)


def _training(config: Config, inputs: "Inputs") -> "TrainingText":
    """The text of `--tuned`, without what is measured; all its positions are learned from."""
    from sdlms.lens.tuned_source import training_text
    from sdlms.models.tokens import Budget

    tasks = load_tasks(config.tuned_tasks, None, config.field, "--tuned-tasks")
    budget = Budget(config.tuned_tokens, 0, config.seed, flag="--tuned-tokens")
    read = _read(inputs.source, inputs.config, tasks, budget)
    data = [task.record() for task in tasks]
    return training_text(read.tokens.rows, inputs.tokens.rows.document_ids, data)


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be, with their hashes."""
    measured = plan.study.rows.document_tasks
    data = [{**task.record(), "n_measured": measured.count(task.name)} for task in plan.tasks]
    return {**plan.study.record_of_inputs(), "data": data, "control": "none"}


def _load(config: Config, plan: Plan, out: RunWriter) -> "Measuring":
    """Load the model, train its lens where that is asked for, and get ready to measure."""
    from sdlms.lens.measuring import Lens
    from sdlms.lens.streaming import Measuring
    from sdlms.lens.tuned import translators_of
    from sdlms.models.device import DTYPES, device_of, set_threads
    from sdlms.models.loading import load_causal_model

    decided, study = plan.decided, plan.study
    set_threads(decided["threads"])
    device = device_of(decided["device"])
    model = load_causal_model(study.inputs.source, DTYPES[decided["dtype"]], device)
    tuned = None if study.saved is None else study.saved[1]
    if study.training is not None:
        with out.phase("tuning"):
            tuned = _train(config, plan, study.training, model, out)
    earlier = out.events("batch_halved")
    return Measuring(
        model=model,
        lens=Lens(model, study.n_top, decided["unembed"], backend=decided.get("backend", "auto")),
        lenses=translators_of(None if tuned is None else tuned.to(device)),
        states=study.states,
        pins=[target.token_id for target in study.targets],
        budget=earlier[-1]["batch_tokens"] if earlier else decided["batch_tokens"],
        scratch=out.scratch,
        on_halved=lambda budget: out.event("batch_halved", batch_tokens=budget),
    )


def _train(
    config: Config, plan: Plan, text: "TrainingText", model: "PreTrainedModel", out: RunWriter
) -> "Tuned":
    """The lens of `--tuned`, saved into the run."""
    from sdlms.lens.tuned_source import Places, trained
    from sdlms.lens.tuning import TuningSettings

    how = TuningSettings(
        steps=config.tuned_steps,
        step_tokens=STEP_TOKENS,
        seed=config.seed,
        on_halved=lambda what, left: out.event("tuning_halved", what=what, count=left),
    )
    places = Places(out.path / TUNED_FOLDER, out.scratch)
    tuned = trained(model, text, how, places, plan.study.record)
    for path in sorted(places.lens.iterdir()):
        out.output(f"{TUNED_FOLDER}/{path.name}")
    return tuned


def _measure(plan: Plan, measuring: "Measuring", out: RunWriter) -> None:
    """One forward over all documents; from the last checkpoint on where there is one."""
    path = out.path / settings.LENS_FILE
    plan.study.create_file(path, plan.decided["dtype"], plan.decided["unembed"])
    measuring.fill(path, plan.study.rows)
    out.output(settings.LENS_FILE)


def _tabulate(config: Config, plan: Plan, out: RunWriter) -> None:
    """Write the tables from `lens.h5`."""
    from sdlms.lens.tables import COLUMNS, TARGET_COLUMNS, lens_rows, target_rows
    from sdlms.lens.text_ends import text_ends
    from sdlms.storage.lens_file import LensReader
    from sdlms.storage.tables import write_table

    tasks = [task.name for task in plan.tasks]
    with out.phase("table"), LensReader(out.path / settings.LENS_FILE) as reader:
        write_table(out.path / settings.TABLE, COLUMNS, lens_rows(reader, tasks, config.seed))
        out.output(settings.TABLE, columns=COLUMNS)
        if plan.study.targets:
            ends = text_ends(plan.study.tokenizer, plan.study.rows)
            rows = target_rows(reader, tasks, ends, config.seed)
            write_table(out.path / settings.TARGETS_TABLE, TARGET_COLUMNS, rows)
            out.output(settings.TARGETS_TABLE, columns=TARGET_COLUMNS)

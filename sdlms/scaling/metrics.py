"""What is joined: of each stage its tables, and their columns that are compared between models.

A stage that is to be joined too gets an entry in `TABLES`; nothing else knows stages by name.
"""

from typing import NamedTuple

ALL_TASKS = "all"


class Metric(NamedTuple):
    """One quantity of a table.

    Attributes:
        name: in `scaling.csv`.
        unit: of its values; a fraction is in [0, 1], an index has none.
        column: where it stands; where this is empty, under its name.
        error: column of its standard error, of which 1.96 make the interval.
        ends: columns of its 95 % interval.
        per: column that it is divided by, error and ends too.
        given: what it depends on beside the model, `machine` or `tokenizer`; runs that differ in
            it are joined without this quantity.
        bound: column that says where the cell is only a bound (`not reached`, perhaps among other
            reasons); the quantity is then NaN.
    """

    name: str
    unit: str
    column: str = ""
    error: str = ""
    ends: tuple[str, str] | None = None
    per: str = ""
    given: str = ""
    bound: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        named = (self.column or self.name, self.error, *(self.ends or ()), self.per, self.bound)
        return tuple(column for column in named if column)


class Table(NamedTuple):
    """A table of a stage: a row per layer or one of the whole model, per site and task if it says.

    Attributes:
        file: in the run.
        metrics: in the order of `scaling.csv`.
        layer: column of the layer, empty where a row is of the whole model; without one, all are.
        site: whose units they are, where neither the row nor the run says.
        kind: of its units, where the run's `resolved` does not say; empty: `neuron` at
            `mlp_act`, `unit` elsewhere.
        kinds: columns whose cells, with a colon between, are the kind instead.
        rule: column of the rule by which a unit fires; it must be the same in all models.
        backend: column of what did the work, which belongs to the machine.
        settings: of the run's config, those that must be the same in all models.
        of_graphs: settings that must be the same where the config's `graph` is on.
        resolved: settings that must be the same, as the run resolved them.
        decided: of what the run decided by itself, the same.
        only: columns, each with the cell of the rows that are read.
    """

    file: str
    metrics: tuple[Metric, ...]
    layer: str = "layer"
    site: str = ""
    kind: str = ""
    kinds: tuple[str, ...] = ()
    rule: str = ""
    backend: str = ""
    settings: tuple[str, ...] = ()
    of_graphs: tuple[str, ...] = ()
    resolved: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    only: tuple[tuple[str, str], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, but those that some tables lack (`site`, `task`)."""
        told_by = (column for column, _ in self.only)
        named = (self.layer, self.rule, self.backend, *self.kinds, *told_by)
        of_metrics = (column for metric in self.metrics for column in metric.columns)
        return tuple(column for column in (*named, *of_metrics) if column)


def _with_error(name: str, unit: str) -> Metric:
    """A metric whose standard error stands beside it."""
    return Metric(name, unit, error=f"{name}_se")


def _with_ends(name: str, unit: str, given: str = "") -> Metric:
    """A metric whose 95 % interval stands beside it."""
    return Metric(name, unit, ends=(f"{name}_low", f"{name}_high"), given=given)


SAME_QUALITY = (
    *("keep", "seed", "seeds", "max_tokens", "calibration_tokens", "force_sparse_at_one"),
)
TABLES: dict[str, tuple[Table, ...]] = {
    "capture": (
        Table(
            file="sparsity.csv",
            rule="threshold_rule",
            settings=("skip_first",),
            metrics=(
                _with_error("activation_fraction", "fraction"),
                _with_error("participation_ratio", "units"),
                # A wider layer has more of everything: its share is what compares.
                Metric(
                    "participation_fraction",
                    "fraction",
                    column="participation_ratio",
                    error="participation_ratio_se",
                    per="n_units",
                ),
                _with_error("firing_rate", "fraction"),
                Metric("dead_fraction", "fraction"),
                Metric("always_on_fraction", "fraction"),
            ),
        ),
    ),
    "sae-train": (
        Table(
            file="sae.csv",
            kind="latent",
            settings=("arch", "select"),
            only=(("selected", "1"),),
            metrics=(
                _with_ends("fvu", "ratio"),
                Metric("l0", "latents"),
                Metric("dead_fraction", "fraction", column="n_dead", per="width"),
                Metric("shrinkage", "index"),
                Metric("stability", "index"),
                _with_ends("ce_recovered", "index"),
                _with_ends("ce_recovered_mean", "index"),
            ),
        ),
    ),
    "si-modularity": (
        Table(
            file="si_modularity.csv",
            rule="threshold",
            of_graphs=("top_edges", "nulls"),
            decided=("louvain",),
            metrics=(
                _with_ends("SI_adjusted", "index"),
                _with_ends("SI", "index"),
                Metric("SI_plain", "index"),
                Metric("significant_fraction", "fraction"),
                Metric("mutual_information_nats", "nats"),
                Metric("split_half_reliability", "index"),
                Metric("Q", "index"),
                Metric("Q_plain", "index"),
                Metric("z_Q", "standard deviations"),
                Metric("n_communities", "communities"),
                # Both Q and z_Q depend on these, whatever the model does.
                Metric("edge_density", "fraction"),
                Metric("firing_rate", "fraction"),
            ),
        ),
    ),
    # Of the rows of `seed` mean; the site is the MLP, since some rules choose among its inputs.
    "dynamic-k": (
        Table(
            file="dynamic_k.csv",
            layer="",
            site="mlp",
            kinds=("rule", "k"),
            settings=SAME_QUALITY,
            resolved=("window", "stride"),
            decided=("dtype",),
            only=(("phase", "quality"), ("seed", "mean")),
            metrics=(
                # Per token: of another tokenizer's tokens it is another quantity.
                _with_ends("perplexity", "perplexity", given="tokenizer"),
                _with_ends("perplexity_ratio", "ratio", given="tokenizer"),
                _with_ends("quality_delta", "perplexity", given="tokenizer"),
                Metric("kept_fraction", "fraction"),
                Metric("bytes_reduction", "fraction"),
            ),
        ),
        Table(
            file="dynamic_k.csv",
            layer="",
            site="mlp",
            kinds=("rule", "k"),
            backend="backend",
            only=(("phase", "decode"), ("seed", "mean")),
            metrics=(
                Metric("speedup", "ratio", given="machine"),
                Metric("speedup_mlp", "ratio", given="machine"),
                Metric("sparsity_gain_mlp", "ratio", given="machine"),
            ),
        ),
        Table(
            file="critical.csv",
            site="mlp",
            kinds=("rule",),
            only=(("seed", "mean"),),
            metrics=(
                _with_ends("critical_sparsity", "fraction", "tokenizer")._replace(bound="reason"),
            ),
        ),
    ),
    # Of the state after a block; `kind` is the lens. A row without a layer is of the whole model.
    "logit-lens": (
        Table(
            file="logit_lens.csv",
            kinds=("lens",),
            settings=("seed", "max_tokens", "layers"),
            metrics=(
                _with_ends("entropy_nats", "nats", given="tokenizer"),
                _with_ends("kl_to_final_nats", "nats", given="tokenizer"),
                _with_ends("loss_nats", "nats", given="tokenizer"),
                _with_ends("accuracy", "fraction", given="tokenizer"),
                _with_ends("agreement", "fraction", given="tokenizer"),
                _with_ends("decided_fraction", "fraction", given="tokenizer"),
                _with_ends("decided_depth", "fraction", given="tokenizer"),
            ),
        ),
    ),
}


def metrics_of(stage: str) -> list[Metric]:
    """Every quantity of a stage, in the order of `scaling.csv`."""
    return [metric for table in TABLES[stage] for metric in table.metrics]

"""What is joined: of each stage a table, and its columns that are compared between models.

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
    """

    name: str
    unit: str
    column: str = ""
    error: str = ""
    ends: tuple[str, str] | None = None
    per: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read."""
        named = (self.column or self.name, self.error, *(self.ends or ()), self.per)
        return tuple(column for column in named if column)


class Table(NamedTuple):
    """The table of a stage: a row per layer, and per site and task where it has such columns.

    Attributes:
        file: in the run.
        metrics: in the order of `scaling.csv`.
        kind: of its units, where the run's `resolved` does not say; empty: `neuron` at
            `mlp_act`, `unit` elsewhere.
        rule: column of the rule by which a unit fires; it must be the same in all models.
        settings: of the run's config, those that must be the same in all models.
        of_graphs: settings that must be the same where the config's `graph` is on.
        decided: of what the run decided by itself, the same.
        only: column and value of the rows that are read; None reads all.
    """

    file: str
    metrics: tuple[Metric, ...]
    kind: str = ""
    rule: str = ""
    settings: tuple[str, ...] = ()
    of_graphs: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()
    only: tuple[str, str] | None = None


def _with_error(name: str, unit: str) -> Metric:
    """A metric whose standard error stands beside it."""
    return Metric(name, unit, error=f"{name}_se")


def _with_ends(name: str, unit: str) -> Metric:
    """A metric whose 95 % interval stands beside it."""
    return Metric(name, unit, ends=(f"{name}_low", f"{name}_high"))


TABLES: dict[str, Table] = {
    "capture": Table(
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
    "sae-train": Table(
        file="sae.csv",
        kind="latent",
        settings=("arch", "select"),
        only=("selected", "1"),
        metrics=(
            _with_ends("fvu", "fraction"),
            Metric("l0", "latents"),
            Metric("dead_fraction", "fraction", column="n_dead", per="width"),
            Metric("shrinkage", "index"),
            Metric("stability", "index"),
            _with_ends("ce_recovered", "fraction"),
            _with_ends("ce_recovered_mean", "fraction"),
        ),
    ),
    "si-modularity": Table(
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
}

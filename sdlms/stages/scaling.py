"""Join runs of several models, and measure how each quantity moves with the model's size.

Writes scaling.csv (one row per model, relative depth, task and quantity) and trends.csv (for each
quantity its rank correlation with the number of parameters, and its change per tenfold size, with
an interval over models). With three models that rests on three points, and p is never below 1/3.
Speed is joined only where one machine timed all models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sdlms.command import StageConfig
from sdlms.errors import UserError
from sdlms.models.layers import DEFAULT_LAYERS, PERCENTAGE, layer_at, named_layers
from sdlms.progress import LOGGER
from sdlms.runs.reading import find_run
from sdlms.runs.writing import RunWriter
from sdlms.scaling.metrics import TABLES

if TYPE_CHECKING:
    from sdlms.scaling.joining import Series
    from sdlms.scaling.sources import Source

SCALING, TRENDS = "scaling.csv", "trends.csv"
FEW_SIZES = 5


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the scaling stage."""

    runs: Annotated[
        tuple[str, ...], f"Runs of {', '.join(TABLES)}, of two or more models: paths or names."
    ] = ()
    depths: Annotated[
        tuple[str, ...],
        "Relative depths to join at; by default the percentages that the runs were made with, "
        f"{','.join(DEFAULT_LAYERS)} where they name none.",
    ] = ()

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        if "latest" in self.runs:
            raise UserError(
                "--runs latest is one run, of one model; a trend needs several. Name each of them "
                "(see: sdlms runs list)."
            )
        if len(self.runs) < 2:
            raise UserError(
                f"--runs names {len(self.runs)} runs; at least two are needed, of two models. Name "
                "them comma-separated (see: sdlms runs list)."
            )
        for word in self.depths:
            _fraction(word)


@dataclass(frozen=True)
class Plan:
    """Everything that is known before anything is written.

    Attributes:
        sources: the runs, read.
        depths: fractions of the layers, ascending.
        series: what was joined.
    """

    sources: "list[Source]"
    depths: list[float]
    series: "list[Series]"


def run(config: Config, out: RunWriter) -> None:
    """Write `scaling.csv` and `trends.csv`.

    Raises:
        UserError: a run is not there or does not compare with the others (before anything is
            written).
    """
    plan = _plan(config, out.options.artifacts)
    out.start(_resolved(plan), {})
    for source in plan.sources:
        out.input(source.run)
    _announce(plan)
    _write(config, plan, out)


def _plan(config: Config, artifacts: Path) -> Plan:
    """Find and read the runs; refuse those that do not compare."""
    from sdlms.scaling.comparable import check_comparable
    from sdlms.scaling.conditions import under_same_conditions
    from sdlms.scaling.joining import joined
    from sdlms.scaling.sources import read_source

    found = [find_run(artifacts, reference, *TABLES) for reference in config.runs]
    paths = [run.path.resolve() for run in found]
    for index, run in enumerate(found):
        if paths[index] in paths[:index]:
            raise UserError(f"--runs names {run.name} twice. Name each run once.")
    sources = [read_source(run) for run in found]
    check_comparable(sources)
    sources = under_same_conditions(sources)
    depths = _depths(config, sources)
    return Plan(sources, depths, joined(sources, depths, layer_at))


def _depths(config: Config, sources: "list[Source]") -> list[float]:
    """Where layers are joined, ascending."""
    words = list(config.depths)
    if not words:
        configs = [source.run.start["config"] for source in sources if source.layers]
        named = [config.get("layers") or () for config in configs]
        words = [word for layers in named for word in layers if PERCENTAGE.fullmatch(word)]
    return sorted({_fraction(word) for word in words or DEFAULT_LAYERS})


def _fraction(word: str) -> float:
    """A percentage as a share of the layers."""
    match = PERCENTAGE.fullmatch(word)
    if match is None or float(match[1]) > 100:
        raise UserError(f"--depths: '{word}' is no percentage of the depth, such as 25%.")
    return round(float(match[1]) / 100, 12)


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be."""
    sizes = {source.model: source.n_parameters for source in plan.sources}
    return {
        "runs": [source.run.name for source in plan.sources],
        "models": dict(sorted(sizes.items(), key=lambda item: (item[1], item[0]))),
        "depths": plan.depths,
        "control": plan.sources[0].control,
    }


def _announce(plan: Plan) -> None:
    """Log which layers stand at which depths, and which stand nowhere."""
    from sdlms.scaling.joining import depths_of

    for source in plan.sources:
        at = depths_of(source, plan.depths, layer_at)
        layers = [f"layer {layer} at {depth:.4g}" for depth, layer in at.items()]
        placed = ", ".join(layers) or "the whole model"
        left = [layer for layer in source.layers if layer not in at.values()]
        LOGGER.info(
            f"{source.run.name}: {source.model}, {source.n_parameters:,} parameters; {placed}"
            + (f"; {named_layers(left)} left out" if left else "")
        )
        absent = [f"{depth:.4g}" for depth in plan.depths if depth not in at]
        if source.layers and absent:
            LOGGER.warning(f"{source.described} has no layer at {', '.join(absent)}")
    if (n_sizes := len({source.n_parameters for source in plan.sources})) < FEW_SIZES:
        LOGGER.warning(f"{n_sizes} model sizes: every trend rests on as many points")
    if (control := plan.sources[0].control) != "none":
        LOGGER.info(f"controls, not the models themselves: {control}")


def _write(config: Config, plan: Plan, out: RunWriter) -> None:
    """Write both tables."""
    from sdlms.scaling import joining, trends
    from sdlms.storage.tables import write_table

    rows = (row for series in plan.series for row in series.rows())
    write_table(out.path / SCALING, joining.COLUMNS, rows)
    out.output(SCALING, columns=joining.COLUMNS)
    with out.phase("trends"):
        found = (trends.trend_row(series, config.seed) for series in plan.series)
        write_table(out.path / TRENDS, trends.COLUMNS, found)
    out.output(TRENDS, columns=trends.COLUMNS)
    LOGGER.info(f"{len(plan.series):,} quantities over {len(plan.sources)} runs")

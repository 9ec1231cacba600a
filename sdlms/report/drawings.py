"""Which figures a report draws of the runs of each stage: a table of planners."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from sdlms.errors import UserError
from sdlms.figures.ablation import ablation_figure
from sdlms.figures.communities import communities_figure
from sdlms.figures.controls import control_rows, controls_figure
from sdlms.figures.dynamic_k import mean_rows, quality_figure
from sdlms.figures.latents import latent_panels
from sdlms.figures.lens import curves_figure, heat_map
from sdlms.figures.panels import MOST_BESIDE
from sdlms.figures.probes import auroc_figure
from sdlms.figures.sae import densities_figure, front_figure
from sdlms.figures.scaling import stages_joined, trends_figure
from sdlms.figures.sizes import model_rows, sizes_figure
from sdlms.figures.sparsity import sparsity_figure
from sdlms.figures.speedups import gated_rows, speed_figure
from sdlms.runs.reading import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Together = Callable[[Sequence[Run], str], "Figure"]
Alone = Callable[[Run, str], "Figure"]
Needed = Callable[[Run], object]  # reads what is drawn of a run; UserError where it lacks that


class Plan(NamedTuple):
    """A figure that may be drawn.

    Attributes:
        title: what it shows.
        runs: of which runs.
        draw: makes it; UserError where a run holds no such table.
    """

    title: str
    runs: tuple[Run, ...]
    draw: "Callable[[], Figure]"


# From the runs of the stage, and all runs of the report, to what may be drawn of them.
Planner = Callable[[Sequence[Run], Sequence[Run]], Iterator[Plan]]


def beside(make: Together, title: str, needed: Needed, fewest: int = 1) -> Planner:
    """Figures that show several runs of the stage beside each other, in groups of like size.

    A run that cannot stand there has a plan of its own, whose `draw` says why.

    Args:
        make: draws a group.
        title: of each group.
        needed: what each run must have.
        fewest: runs without which there is no figure.
    """

    def plans(runs: Sequence[Run], _: Sequence[Run]) -> Iterator[Plan]:
        lacking = {run: error for run in runs if (error := _lack(run, needed))}
        fit = [run for run in runs if run not in lacking]
        if len(fit) >= fewest:
            for some in _groups(fit):
                yield Plan(title, some, partial(make, some, title))
        for run, error in lacking.items():
            yield Plan(title, (run,), partial(_refuse, error))

    return plans


def _lack(run: Run, needed: Needed) -> UserError | KeyError | None:
    """Why a run cannot be drawn: it holds no such table, or one without a column."""
    try:
        needed(run)
    except (UserError, KeyError) as error:
        return error
    return None


def _refuse(error: UserError | KeyError) -> "Figure":
    """Say why there is no figure."""
    raise error


def _groups(runs: Sequence[Run]) -> Iterator[tuple[Run, ...]]:
    """In their order, as few groups as can be; none is larger than another by more than one."""
    n_groups = ceil(len(runs) / MOST_BESIDE)
    for group in range(n_groups):
        first, last = (len(runs) * end // n_groups for end in (group, group + 1))
        if last > first:
            yield tuple(runs[first:last])


def each(make: Alone, title: str) -> Planner:
    """A figure for every run of the stage."""

    def plans(runs: Sequence[Run], _: Sequence[Run]) -> Iterator[Plan]:
        for run in runs:
            yield Plan(title, (run,), partial(make, run, title))

    return plans


def _quality(run: Run) -> object:
    """What perplexity became."""
    return mean_rows(run, "quality")


def _lens_of_tasks(run: Run, title: str) -> "Figure":
    """The lens' curves, task by task."""
    return curves_figure(run, title, "task")


def _first_document(run: Run, title: str) -> "Figure":
    """What the lens says of the beginning of the first document."""
    return heat_map(run, 0, title)


def _latents(runs: Sequence[Run], every_run: Sequence[Run]) -> Iterator[Plan]:
    """What some latents fire on; the tokens and their texts come from other runs."""
    title = "The documents on which some latents fire most"
    for run in runs:
        yield Plan(title, (run,), partial(latent_panels, run, title, every_run))


def _trends(runs: Sequence[Run], _: Sequence[Run]) -> Iterator[Plan]:
    """For each stage that was joined, its quantities by the model's size."""
    for run in runs:
        if error := _lack(run, stages_joined):
            yield Plan("By the model's size", (run,), partial(_refuse, error))
            continue
        for stage in stages_joined(run):
            title = f"By the model's size: {stage}"
            yield Plan(title, (run,), partial(trends_figure, run, title, stage))


AUTOENCODERS = (
    each(front_figure, "What is left unexplained, against latents that are active"),
    each(densities_figure, "How often latents fire"),
    _latents,
)
FIGURES: dict[str, tuple[Planner, ...]] = {
    "capture": (
        beside(sizes_figure, "Sparsity of MLP neurons, model beside model", model_rows, fewest=2),
        each(sparsity_figure, "Sparsity by layer and task"),
    ),
    "sae-train": AUTOENCODERS,
    "sae-evaluate": AUTOENCODERS,
    "sae-latents": (_latents,),
    "si-modularity": (
        beside(controls_figure, "Specialization and its controls", control_rows),
        each(communities_figure, "Communities and the tasks that their units prefer"),
        each(ablation_figure, "What the model loses without its most specialized units"),
    ),
    "probe": (each(auroc_figure, "What probes read from each layer"),),
    "dynamic-k": (
        beside(quality_figure, "What dropping neurons costs", _quality),
        beside(speed_figure, "Speed: gain of the kernel, and of sparsity", gated_rows),
    ),
    "logit-lens": (
        each(curves_figure, "What the model would say after each layer"),
        each(_lens_of_tasks, "What the model would say after each layer, by task"),
        each(_first_document, "The beginning of the first document, layer by layer"),
    ),
    "scaling": (_trends,),
}


def plans_of(stage: str, runs: Sequence[Run], every_run: Sequence[Run]) -> list[Plan]:
    """What may be drawn of a stage's runs, what shows several of them first."""
    return [plan for planner in FIGURES.get(stage, ()) for plan in planner(runs, every_run)]

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from sdlms.cli import NAMED
from sdlms.report.drawings import FIGURES, MOST_BESIDE, beside, each, plans_of
from sdlms.runs.reading import Run
from tests.scaling.small_runs import captured

RUNS = [Run(Path(f"run_{number}")) for number in range(2 * MOST_BESIDE + 1)]


def figure(_: object, title: str) -> Figure:
    return Figure(label=title)


def test_every_run_is_in_one_figure_beside_others() -> None:
    plans = list(beside(figure, "title")(RUNS, RUNS))
    assert [len(plan.runs) for plan in plans] == [MOST_BESIDE, MOST_BESIDE, 1]
    assert [run for plan in plans for run in plan.runs] == RUNS
    assert len(list(beside(figure, "title", fewest=2)(RUNS, RUNS))) == 2


def test_every_run_has_a_figure_of_its_own() -> None:
    plans = list(each(figure, "title")(RUNS, RUNS))
    assert [plan.runs for plan in plans] == [(run,) for run in RUNS]
    assert plans[0].draw().get_label() == "title"


def test_stages_have_figures() -> None:
    assert set(FIGURES) <= set(NAMED)
    assert set(NAMED) - set(FIGURES) == {"report"}
    assert plans_of("unknown", RUNS, RUNS) == []


def test_plans_can_be_drawn(tmp_path: Path) -> None:
    runs = [captured(tmp_path, "small"), captured(tmp_path, "medium")]
    plans = plans_of("capture", runs, runs)
    assert [plan.runs for plan in plans] == [tuple(runs), (runs[0],), (runs[1],)]
    for plan in plans:
        assert plan.draw().axes


@pytest.mark.parametrize("stage", ["logit-lens", "sae-train", "sae-latents", "probe", "dynamic-k"])
def test_what_is_shown_of_a_stage_names_its_runs(stage: str) -> None:
    plans = plans_of(stage, RUNS, RUNS)
    assert {run for plan in plans for run in plan.runs} == set(RUNS)
    assert all(plan.title for plan in plans)

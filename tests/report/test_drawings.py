"""Which figures a report draws: every run in one, or named with the reason why it is in none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from sdlms.cli import NAMED
from sdlms.errors import UserError
from sdlms.figures.images import own_style
from sdlms.figures.panels import MOST_BESIDE
from sdlms.report.drawings import FIGURES, beside, each, plans_of
from sdlms.runs.reading import Run
from tests.figures.gated_runs import gated_run
from tests.figures.sae_runs import sae_run
from tests.figures.table_runs import table_run
from tests.figures.test_ablation import ablation_rows
from tests.figures.test_communities import community_tables
from tests.figures.test_controls import make_run as controlled
from tests.figures.test_lens import measured
from tests.figures.test_probes import probed
from tests.figures.test_scaling import rows_of_captures, rows_of_gates
from tests.figures.test_strongest import LENGTHS, WIDTH, encoded_run, some_rows
from tests.scaling.small_runs import captured

RUNS = [Run(Path(f"run_{number}")) for number in range(2 * MOST_BESIDE + 1)]


def figure(_: object, title: str) -> Figure:
    return Figure(label=title)


def needs_nothing(_: Run) -> None:
    pass


def needs_speed(run: Run) -> None:
    if run in RUNS[1:3]:
        raise UserError(f"{run.name} measured no speed.")


@pytest.mark.parametrize(
    ("n_runs", "sizes"), [(1, [1]), (4, [4]), (5, [2, 3]), (6, [3, 3]), (9, [3, 3, 3])]
)
def test_every_run_is_in_one_figure_beside_others(n_runs: int, sizes: list[int]) -> None:
    plans = list(beside(figure, "title", needs_nothing)(RUNS[:n_runs], RUNS))
    assert [len(plan.runs) for plan in plans] == sizes
    assert [run for plan in plans for run in plan.runs] == RUNS[:n_runs]
    fewest = list(beside(figure, "title", needs_nothing, fewest=2)(RUNS[:n_runs], RUNS))
    assert fewest == [] if n_runs == 1 else len(fewest) == len(plans)


def test_a_run_that_lacks_something_takes_no_other_with_it() -> None:
    drawn, *refused = beside(figure, "title", needs_speed)(RUNS[:5], RUNS)
    assert drawn.runs == (RUNS[0], RUNS[3], RUNS[4])
    assert drawn.draw().get_label() == "title"
    for plan, run in zip(refused, RUNS[1:3], strict=True):
        assert plan.runs == (run,)
        with pytest.raises(UserError, match=rf"^{run.name} measured no speed\.$"):
            plan.draw()


def test_a_scaling_run_of_another_version_takes_no_other_with_it(tmp_path: Path) -> None:
    odd = table_run(tmp_path / "odd", "scaling", {"scaling.csv": [{"metric": "x"}]})
    sound = table_run(tmp_path, "scaling", {"scaling.csv": rows_of_captures()})
    refused, drawn = plans_of("scaling", [odd, sound], [odd, sound])
    assert (refused.runs, drawn.runs) == ((odd,), (sound,))
    with pytest.raises(KeyError, match="stage"):
        refused.draw()


def test_every_run_has_a_figure_of_its_own() -> None:
    plans = list(each(figure, "title")(RUNS, RUNS))
    assert [plan.runs for plan in plans] == [(run,) for run in RUNS]
    assert plans[0].draw().get_label() == "title"


def test_stages_have_figures() -> None:
    assert set(FIGURES) <= set(NAMED)
    assert set(NAMED) - set(FIGURES) == {"report"}
    assert plans_of("unknown", RUNS, RUNS) == []


def test_only_models_stand_among_models(tmp_path: Path) -> None:
    """As in the study: controls and captures of the residual stream lie between those of models."""
    small, medium = captured(tmp_path, "small"), captured(tmp_path, "medium")
    others = [
        captured(tmp_path, "small", control="reinit"),
        captured(tmp_path, "small", sites=["resid_post"]),
    ]
    together, *plans = plans_of("capture", [small, *others, medium], [])
    assert together.runs == (small, medium) and together.draw().axes
    for plan, run in zip(plans, others, strict=False):
        assert plan.runs == (run,) and plan.title == together.title
        with pytest.raises(UserError, match=r"is a control|'mlp_act' was not captured"):
            plan.draw()
    assert [plan.runs for plan in plans[2:]] == [(run,) for run in (small, *others, medium)]
    assert all(plan.draw().axes for plan in plans[2:])


def test_speed_is_drawn_of_the_runs_that_measured_it(tmp_path: Path) -> None:
    both, quality = gated_run(tmp_path), gated_run(tmp_path, phases=["quality"])
    row = {"phase": "decode", "task": "all", "seed": "mean"}
    old = table_run(tmp_path, "dynamic-k", {"dynamic_k.csv": [row]})
    costs, no_cost, speeds, *no_speeds = plans_of("dynamic-k", [both, quality, old], [])
    assert (costs.runs, speeds.runs) == ((both, quality), (both,))
    assert [plan.runs for plan in (no_cost, *no_speeds)] == [(old,), (quality,), (old,)]
    with pytest.raises(UserError, match="measured no quality"):
        no_cost.draw()
    with pytest.raises(UserError, match="measured no speed"):
        no_speeds[0].draw()
    with pytest.raises(KeyError, match="k"):  # which the page takes for another version
        no_speeds[1].draw()


@pytest.mark.parametrize("stage", ["logit-lens", "sae-train", "sae-latents", "probe"])
def test_what_is_shown_of_a_stage_names_its_runs(stage: str) -> None:
    plans = plans_of(stage, RUNS, RUNS)
    assert {run for plan in plans for run in plan.runs} == set(RUNS)
    assert all(plan.title for plan in plans)


def runs_of(stage: str, artifacts: Path) -> list[Run]:
    """What all figures of a stage can be drawn of."""
    structure = community_tables({0: [3, 2]}) | {"ablation.csv": ablation_rows(1)}
    encoded = np.ones((sum(LENGTHS), WIDTH), np.float32)
    joined = {"scaling.csv": rows_of_captures() + rows_of_gates()}
    make: dict[str, Callable[[], list[Run]]] = {
        "capture": lambda: [captured(artifacts, size) for size in ("small", "medium")],
        "sae-train": lambda: [sae_run(artifacts)],
        "sae-evaluate": lambda: [sae_run(artifacts)],
        "sae-latents": lambda: [encoded_run(artifacts, encoded, some_rows())],
        "si-modularity": lambda: [
            controlled(artifacts, "small", ["none", "reinit"]),
            table_run(artifacts, "si-modularity", structure),
        ],
        "probe": lambda: [probed(artifacts)],
        "dynamic-k": lambda: [gated_run(artifacts, rules=["post-norm", "random"])],
        "logit-lens": lambda: [measured(artifacts)],
        "scaling": lambda: [table_run(artifacts, "scaling", joined)],
    }
    return make[stage]()


@pytest.mark.parametrize("stage", FIGURES)
def test_no_figure_shows_the_signs_of_a_formula(stage: str, tmp_path: Path) -> None:
    """In a report a `$` is a `$`, as it may be in a name; so what we write has none."""
    runs, drawn = runs_of(stage, tmp_path), set()
    for plan in plans_of(stage, runs, runs):
        with own_style():
            try:
                made = plan.draw()
            except UserError:  # one run has the controls, the other communities and ablation
                assert stage == "si-modularity"
                continue
            FigureCanvasAgg(made).draw()
        texts = [text.get_text() for text in made.findobj(Text) if text.get_visible()]
        assert texts and not [text for text in texts if is_math_text(text)]
        drawn.add(plan.title)
    assert drawn == {plan.title for plan in plans_of(stage, runs, runs)}

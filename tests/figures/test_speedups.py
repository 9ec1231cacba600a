"""Speed in its two parts: heights that multiply, the limit, and a column for each rule."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from sdlms.errors import UserError
from sdlms.figures.speedups import speed_figure
from tests.figures.gated_runs import KEEP, gated_run
from tests.figures.overlaps import assert_nothing_overlaps

BELOW_ONE = KEEP[:-1]


def bars_of(panel: Axes) -> dict[str, list[tuple[float, float]]]:
    """Where the bars of each part begin and end, in the order of the kept fractions."""
    return {
        container.get_label(): [
            (bar.get_y(), bar.get_y() + bar.get_height()) for bar in container.patches
        ]
        for container in panel.containers
    }


@pytest.mark.parametrize("kernel", [1.4, 0.8])
def test_bars_are_the_kernel_and_from_there_to_the_speedup(tmp_path: Path, kernel: float) -> None:
    run = gated_run(tmp_path, rules=["post-norm"], kernel=kernel)
    whole, mlp = speed_figure([run], "a title").axes
    assert len(whole.collections) == 1  # one seed has no spread
    assert whole.get_title() == "small\npost-norm, compiled, float32"
    for panel, own, power in ((whole, kernel, -1), (mlp, kernel**1.6, 0)):
        parts = bars_of(panel)
        kernels, gains = parts["kernel alone, all neurons kept"], parts["skipping neurons"]
        read = [0.5 + 0.5 * k for k in BELOW_ONE]
        limits = [2 / (1 + r) if power else 1 / r for r in read]
        assert kernels == [(1, pytest.approx(own))] * len(BELOW_ONE)
        assert gains == [(pytest.approx(own), pytest.approx(0.99 * own * x**0.9)) for x in limits]
        ends = [segment[0, 1] for segment in panel.collections[0].get_segments()]
        assert ends == pytest.approx([own * limit for limit in limits])
        written = [label.get_text().splitlines() for label in panel.get_xticklabels()]
        assert [k for k, _ in written] == [str(k) for k in BELOW_ONE]
        said = [float(value.removesuffix("x")) for _, value in written]
        assert said == pytest.approx([0.99 * own * x**0.9 for x in limits], abs=0.005)
        low, high = panel.get_ylim()
        assert panel.get_yscale() == "log" and low < min(1, own) and max(ends) < high


def test_the_spread_over_seeds_is_drawn_where_there_is_one(tmp_path: Path) -> None:
    run = gated_run(tmp_path, rules=["post-norm"], speedup_std=0.2)
    figure = speed_figure([run], "a title")
    whole, mlp = figure.axes
    gains = bars_of(whole)["skipping neurons"]
    ends = [tuple(segment[:, 1]) for segment in whole.collections[1].get_segments()]
    assert ends == [(pytest.approx(end - 0.2), pytest.approx(end + 0.2)) for _, end in gains]
    assert len(mlp.collections) == 1  # of the MLP alone it is not known
    assert "standard deviation over seeds" in " ".join(figure.get_suptitle().splitlines())
    assert_nothing_overlaps(figure)


def test_one_seed_is_said_to_have_no_interval(tmp_path: Path) -> None:
    figure = speed_figure([gated_run(tmp_path, rules=["post-norm"])], "a title")
    assert "one seed, so no intervals" in " ".join(figure.get_suptitle().splitlines())


def test_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    runs = [gated_run(tmp_path, rules=["input"]) for _ in range(2)]
    figure = speed_figure(runs, "a title")
    titles = [panel.get_title().splitlines() for panel in figure.axes[:2]]
    assert titles == [["small", "input, compiled, float32", run.name] for run in runs]
    assert_nothing_overlaps(figure)


def test_a_run_that_kept_all_is_one_line(tmp_path: Path) -> None:
    run = gated_run(tmp_path, rules=["post-norm"], keep=[1.0])
    with pytest.raises(UserError, match=r"kept all neurons: nothing to compare; name a fraction b"):
        speed_figure([run], "a title")


def test_there_is_a_column_for_each_rule_and_backend(tmp_path: Path) -> None:
    rules = ["post-norm", "input"]
    runs = [gated_run(tmp_path, rules=rules, backend=name) for name in ("torch", "compiled")]
    figure = speed_figure(runs, "a title")
    titles = [panel.get_title().splitlines()[1] for panel in figure.axes[:4]]
    assert titles == [f"{r}, {b}, float32" for b in ("torch", "compiled") for r in rules]
    for row in (figure.axes[:4], figure.axes[4:]):
        assert len({panel.get_ylim() for panel in row}) == 1
        assert row[0].get_ylabel().endswith("(times the dense model)")


@pytest.mark.parametrize("n_rules", [1, 2, 4])
@pytest.mark.parametrize("kernel", [0.5, 1.4])
def test_nothing_overlaps(tmp_path: Path, n_rules: int, kernel: float) -> None:
    rules = ["post-norm", "threshold", "input", "static"][:n_rules]
    assert_nothing_overlaps(speed_figure([gated_run(tmp_path, rules=rules, kernel=kernel)], "t"))


def test_a_run_without_times_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"measured no speed; make it with --measure both\.$"):
        speed_figure([gated_run(tmp_path, phases=["quality"])], "a title")

"""One run's sparsity: the points are the table's, the ticks are its layers."""

from pathlib import Path

from sdlms.acts.sparsity import COLUMNS
from sdlms.figures.sparsity import sparsity_figure
from sdlms.storage.tables import write_table


def row(layer: int, task: str, fraction: float) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(COLUMNS, 0.25)
    return {
        **values,
        "layer": layer,
        "site": "mlp_act",
        "task": task,
        "activation_fraction": fraction,
        "activation_fraction_se": 0.01,
        "participation_ratio": 10 * fraction,
        "participation_ratio_se": float("nan"),
    }


def test_points_are_the_tables(tmp_path: Path) -> None:
    rows = [row(3, "qa", 0.2), row(3, "math", 0.3), row(7, "qa", 0.4), row(7, "math", 0.5)]
    write_table(tmp_path / "sparsity.csv", COLUMNS, rows)
    figure = sparsity_figure(tmp_path / "sparsity.csv", "a title")
    fraction, ratio = figure.axes
    assert [label.get_text() for label in fraction.get_xticklabels()] == ["3", "7"]
    drawn = {container.get_label(): container[0] for container in fraction.containers}
    assert set(drawn) == {"qa", "math"}
    assert list(drawn["qa"].get_ydata()) == [0.2, 0.4]
    assert [round(x) for x in drawn["qa"].get_xdata()] == [0, 1]
    assert list(ratio.containers[0][0].get_ydata()) == [2.0, 4.0]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000

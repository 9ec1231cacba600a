import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.captured import captured_rules, check_counts, read_counts_of, site_among
from sdlms.structure.threshold_rule import AT_ZERO, ThresholdRule
from tests.structure.read_runs import captured

DECILE = ThresholdRule("quantile", 0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ["--tasks", "qa", "--layers", "0,2", "--site", "mlp_act,resid_pre", "--no-save"]
    return captured(tmp_path_factory.mktemp("artifacts"), *words)


def test_rules_are_those_of_the_table(run: Run) -> None:
    sites = [(site, layer) for site in ("mlp_act", "resid_pre") for layer in (0, 2)]
    assert captured_rules(run) == dict.fromkeys(sites, DECILE)


def test_units_that_are_zero_at_rest_have_zero(tmp_path: Path, tiny_relu_model: Path) -> None:
    words = ["--model", tiny_relu_model, "--tasks", "qa", "--site", "mlp_act,resid_pre"]
    rules = captured_rules(captured(tmp_path, *words, "--layers", 1))
    assert rules == {("mlp_act", 1): AT_ZERO, ("resid_pre", 1): DECILE}


def test_a_site_is_chosen_among_those_that_were_counted(run: Run) -> None:
    rules = captured_rules(run)
    assert site_among(run, rules, "resid_pre") == "resid_pre"
    assert site_among(run, {("mlp_act", 0): DECILE}, None) == "mlp_act"
    with pytest.raises(UserError, match=r"sites mlp_act, resid_pre; choose one: --site mlp_act"):
        site_among(run, rules, None)
    with pytest.raises(UserError, match=r"--site mlp_out: .* but mlp_act, resid_pre"):
        site_among(run, rules, "mlp_out")


def test_counts_are_read_by_name(run: Run) -> None:
    with h5py.File(run.path / "counts.h5") as file:
        expected = file["/mlp_act/layer_2/counts"][:]
    assert np.array_equal(read_counts_of(run, "/mlp_act/layer_2/counts"), expected)


def damaged(run: Run, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Run:
    """A copy of a run, one file of which has changed."""
    copy = Path(shutil.copytree(run.path, folder / run.name))
    for place in (copy, copy / name):
        place.chmod(0o755)
    (copy / name).write_bytes(change((copy / name).read_bytes()))
    return Run(copy)


@pytest.mark.parametrize(
    "change", [lambda _: b"", lambda old: old[:-200], lambda old: old.replace(b"0", b"1")]
)
def test_a_damaged_table_is_one_line(
    run: Run, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    other = damaged(run, tmp_path, "sparsity.csv", change)
    with pytest.raises(UserError, match=rf"sparsity\.csv is damaged .* verify {other.name}$"):
        captured_rules(other)


@pytest.mark.parametrize("change", [lambda _: b"nothing", lambda old: old[:-3000]])
def test_damaged_counts_are_one_line(
    run: Run, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    other = damaged(run, tmp_path, "counts.h5", change)
    line = rf"counts\.h5: damaged, or gone.* verify {other.name}$"
    with pytest.raises(UserError, match=line):
        check_counts(other, "mlp_act", [0, 2])
    with pytest.raises(UserError, match=line):
        read_counts_of(other, "/")


def test_counts_of_another_shape_are_damage(run: Run, tmp_path: Path) -> None:
    check_counts(run, "mlp_act", [0, 2])
    other = damaged(run, tmp_path, "counts.h5", lambda old: old)
    with h5py.File(other.path / "counts.h5", "r+") as file:
        name = "/mlp_act/layer_2/counts"
        kept = file[name][:-1]
        del file[name]
        file[name] = kept
    check_counts(other, "mlp_act", [0])
    with pytest.raises(UserError, match=r"counts\.h5: damaged"):
        check_counts(other, "mlp_act", [0, 2])


def test_a_part_that_is_missing_is_one_line(run: Run) -> None:
    with pytest.raises(UserError, match=r"counts\.h5: damaged"):
        read_counts_of(run, "/mlp_act/layer_1/counts")

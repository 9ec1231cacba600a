from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.structure.captured import captured_rules, read_counts_of, site_among
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sparsity.csv", b""),
        ("sparsity.csv", b"layer,site\n0,mlp_act\n"),
        ("sparsity.csv", b"layer,site,threshold_rule\n0,mlp_act\n"),
        ("sparsity.csv", b"layer,site,threshold_rule\n"),
        ("sparsity.csv", b"layer,site,threshold_rule\nx,mlp_act,zero\n"),
        ("sparsity.csv", b"layer,site,threshold_rule\n0,mlp_act,top_5\n"),
        ("sparsity.csv", b"\xff\xfe"),
        ("sparsity.csv", None),
        ("counts.h5", b"nothing"),
        ("counts.h5", None),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: damaged, or gone; see: sdlms runs verify"):
        if name == "counts.h5":
            read_counts_of(Run(tmp_path), "/documents/id")
        else:
            captured_rules(Run(tmp_path))


def test_a_part_that_is_missing_is_one_line(run: Run) -> None:
    with pytest.raises(UserError, match=r"counts\.h5: damaged"):
        read_counts_of(run, "/mlp_act/layer_1/counts")

from pathlib import Path
from typing import Any

import pytest

from sdlms.dynamic.same_model import check_same_model
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter

MODEL = {"name": "tiny", "weights": {"model.safetensors": "aa"}, "reinit_seed": None}


def run_of(folder: Path, model: dict[str, Any] | None) -> Run:
    with RunWriter("si-modularity", {"seed": 0}, RunOptions(artifacts=folder)) as out:
        out.start({} if model is None else {"model": model}, {})
    return Run(out.path)


def test_same_weights_are_the_same_model(tmp_path: Path) -> None:
    check_same_model(run_of(tmp_path, {**MODEL, "name": "a copy"}), MODEL, "--si")


@pytest.mark.parametrize(
    "other",
    [{**MODEL, "weights": {"model.safetensors": "bb"}}, {"name": "tiny"}, None],
)
def test_other_or_unknown_weights_are_refused_in_one_line(
    tmp_path: Path, other: dict[str, Any] | None
) -> None:
    with pytest.raises(UserError, match=r"^--si: .*weights differ\. .* gated\.$"):
        check_same_model(run_of(tmp_path, other), MODEL, "--si")


def test_fresh_weights_of_the_same_shape_are_called_that(tmp_path: Path) -> None:
    fresh = {**MODEL, "weights": {"state": "cc"}, "reinit_seed": 3}
    with pytest.raises(UserError, match=r"tiny with fresh weights \(seed 3\), not of tiny:"):
        check_same_model(run_of(tmp_path, fresh), MODEL, "--sae")

import logging
from pathlib import Path
from typing import Any

import pytest

from sdlms.errors import UserError
from sdlms.lens.tables import COLUMNS as LENS_COLUMNS
from sdlms.runs.reading import Run
from sdlms.scaling.conditions import under_same_conditions
from sdlms.scaling.sources import Source
from sdlms.storage.tables import Cell
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, model_of, sources, written

TIMED = {"speedup", "speedup_mlp", "sparsity_gain_mlp"}
PER_TOKEN = {"perplexity", "perplexity_ratio", "quality_delta", "critical_sparsity"}
OTHERS = {"kept_fraction", "bytes_reduction"}


def names(source: Source) -> set[str]:
    """What it holds."""
    return {value.metric.name for value in source.values}


def test_on_one_machine_with_one_tokenizer_nothing_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read = sources(*(gated(tmp_path, name) for name in ("small", "medium")))
    with caplog.at_level(logging.WARNING, "sdlms"):
        assert under_same_conditions(read) == read
    assert not caplog.records
    assert names(read[0]) == TIMED | PER_TOKEN | OTHERS


@pytest.mark.parametrize("unlike", ["device_name", "threads", "dtype"])
def test_times_of_other_machines_are_not_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unlike: str
) -> None:
    runs = [gated(tmp_path, "small"), gated(tmp_path, "medium", decided={unlike: 7})]
    with caplog.at_level(logging.WARNING, "sdlms"):
        found = under_same_conditions(sources(*runs))
    assert [names(source) for source in found] == [PER_TOKEN | OTHERS] * 2
    (record,) = caplog.records
    assert "dynamic-k: sparsity_gain_mlp, speedup, speedup_mlp are not joined" in record.message
    assert f"a CPU, float32, 2 threads, compiled in {runs[0].name} (small) and" in record.message


def test_times_of_another_backend_are_not_joined(tmp_path: Path) -> None:
    runs = [gated(tmp_path, "small"), gated(tmp_path, "medium", backend="torch")]
    found = under_same_conditions(sources(*runs))
    assert [names(source) for source in found] == [PER_TOKEN | OTHERS] * 2


def test_a_run_without_times_takes_them_from_no_other(tmp_path: Path) -> None:
    """Its device measured quality alone, which is the same everywhere."""
    runs = [gated(tmp_path, name) for name in ("small", "medium")]
    runs.append(gated(tmp_path, "large", measure="quality", decided={"device_name": "a GPU"}))
    found = under_same_conditions(sources(*runs))
    assert [TIMED <= names(source) for source in found] == [True, True, False]


def test_perplexities_of_other_tokens_are_not_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = model_of("medium", tokenizer={"tokenizer.json": "t1"})
    runs = [gated(tmp_path, "small"), gated(tmp_path, "medium", model=other)]
    with caplog.at_level(logging.WARNING, "sdlms"):
        found = under_same_conditions(sources(*runs))
    assert [names(source) for source in found] == [TIMED | OTHERS] * 2
    (record,) = caplog.records
    expected = ", ".join(sorted(PER_TOKEN)) + " are not joined: the tokenizer is t0 in"
    assert expected in record.message


def test_other_stages_do_not_depend_on_it(tmp_path: Path) -> None:
    models = [model_of(n, tokenizer={"a.json": n}) for n in ("small", "medium")]
    read = sources(*(captured(tmp_path, model["name"], model=model) for model in models))
    assert read[0].given != read[1].given
    assert under_same_conditions(read) == read


def test_a_run_of_nothing_but_times_is_refused_elsewhere(tmp_path: Path) -> None:
    runs = [
        gated(tmp_path, "small", measure="speed"),
        gated(tmp_path, "medium", measure="speed", decided={"threads": 1}),
    ]
    message = r"^--runs: nothing of .*\(small\) compares .* depends on the machine\. .* --threads"
    with pytest.raises(UserError, match=message) as e:
        under_same_conditions(sources(*runs))
    assert "\n" not in str(e.value)


def looked_into(work: Path, model: dict[str, Any]) -> Run:
    """A logit-lens run of one layer."""
    row: dict[str, Cell] = dict.fromkeys(LENS_COLUMNS, 0.5)
    row |= {"layer": 1, "site": "resid_post", "task": "all", "lens": "logit"}
    resolved = {"model": model, "data": [], "control": "none"}
    return written(work, "logit-lens", {}, resolved, {"logit_lens.csv": (LENS_COLUMNS, [row])})


def test_a_run_of_nothing_but_losses_is_refused_beside_other_tokens(tmp_path: Path) -> None:
    models = [model_of(n, tokenizer={"a.json": n}) for n in ("small", "medium")]
    runs = [looked_into(tmp_path, model) for model in models]
    message = r"^--runs: nothing of .*\(small\) compares .* depends on the tokenizer\. .* tokenizer"
    with pytest.raises(UserError, match=message):
        under_same_conditions(sources(*runs))

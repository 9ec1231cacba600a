"""Rows say of made-up parts what one works out by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlms.dynamic.limits import decode_savings, prefill_savings
from sdlms.dynamic.losses import DocumentLosses
from sdlms.dynamic.results import Results
from sdlms.dynamic.study import Study
from sdlms.dynamic.tables import COLUMNS, CRITICAL_COLUMNS, TIMED
from sdlms.models.gating.costs import costs_of
from tests.dynamic.made_losses import at_random, worse
from tests.dynamic.studies import losses_part, made_times, study_of, write_part

SEEDS = (3, 4)
# Nats per token that are lost, by kept fraction, and by one gated layer.
LOST, LOST_ALONE = {0.25: 0.05, 0.5: 0.004}, {0.25: 0.02, 0.5: 0.002}
Row = dict[str, Any]


def dense_of(seed: int) -> DocumentLosses:
    return at_random(seed)


def made_study(
    folder: Path, seeds: tuple[int, ...] = SEEDS, rule: str = "post-norm", **settings: Any
) -> Study:
    """Everything is on the disk: the model is never run."""
    study = study_of(folder, seeds=seeds, rules=(rule,), **settings)
    for seed in seeds:
        write_part(study, folder, f"{seed}_dense", losses_part(dense_of(seed), 1.0))
        for keep, nats in LOST.items():
            own = worse(dense_of(seed), nats * (seed - 2))
            write_part(study, folder, f"{seed}_{rule}_{keep:g}", losses_part(own, keep))
        own = worse(dense_of(seed), -1e-6)
        write_part(study, folder, f"{seed}_{rule}_1", losses_part(own, 1.0))
        alone = {
            f"{keep:g}": losses_part(worse(dense_of(seed), nats), keep)
            for keep, nats in LOST_ALONE.items()
        }
        write_part(study, folder, f"{seed}_{rule}_layer_1", alone)
        write_part(study, folder, f"{seed}_{rule}_speed", made_times(seed - 2))
    return study


def results_of(study: Study, has_quality: bool = True, has_speed: bool = True) -> Results:
    costs = costs_of(study.model.config)
    return Results(study, costs, ["math", "qa"], 9, 0, has_quality, has_speed)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return made_study(tmp_path)


def one(rows: list[Row], **cells: object) -> Row:
    (found,) = [row for row in rows if all(row[name] == cell for name, cell in cells.items())]
    return found


def test_rows_have_the_columns_and_an_order(study: Study) -> None:
    results = results_of(study)
    rows, critical = list(results.rows()), list(results.critical_rows())
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert all(set(row) == set(CRITICAL_COLUMNS) for row in critical)
    groups = ["3", "4", "mean"]
    keys = [("quality", seed, task) for seed in groups for task in ("math", "qa", "all")]
    keys += [(phase, seed, "all") for phase in ("decode", "prefill") for seed in groups]
    found = [(row["k"], row["phase"], row["seed"], row["task"]) for row in rows]
    assert found == [(keep, *key) for keep in (0.25, 0.5, 1.0) for key in keys]
    scopes = [("model", None, "all"), ("task", None, "math"), ("task", None, "qa")]
    scopes += [("layer", 1, "all")]
    found = [(row["seed"], row["scope"], row["layer"], row["task"]) for row in critical]
    assert found == [(seed, *scope) for seed in groups for scope in scopes]


def test_perplexities_are_those_of_the_sums(study: Study) -> None:
    rows = list(results_of(study).rows())
    ratios = {}
    for seed in SEEDS:
        losses = dense_of(seed)
        for number, task in [(0, "math"), (1, "qa"), (None, "all")]:
            own = np.ones(30, bool) if number is None else losses.task == number
            dense = math.exp(losses.sums[own].sum() / losses.counts[own].sum())
            for keep, nats in LOST.items():
                row = one(rows, k=keep, phase="quality", seed=str(seed), task=task)
                ratio = math.exp(nats * (seed - 2))
                ratios[keep, seed] = ratio
                assert row["perplexity"] == pytest.approx(dense * ratio)
                assert row["perplexity_ratio"] == pytest.approx(ratio)
                assert row["quality_delta"] == pytest.approx(dense * (ratio - 1))
                assert row["perplexity_ratio_low"] == pytest.approx(ratio)  # each token alike
                assert (row["n_tokens"], row["n_documents"]) == (
                    losses.counts[own].sum(),
                    own.sum(),
                )
                assert row["backend"] == "masks"
    for keep in LOST:
        row = one(rows, k=keep, phase="quality", seed="mean", task="all")
        own = [ratios[keep, seed] for seed in SEEDS]
        assert row["perplexity_ratio"] == pytest.approx(np.mean(own))
        assert row["perplexity_ratio_std"] == pytest.approx(np.std(own, ddof=1))
        assert row["n_documents"] == 30  # both seeds read the same


def test_keep_one_is_exactly_nothing_unless_it_is_forced(tmp_path: Path, study: Study) -> None:
    for row in results_of(study).rows():
        if row["k"] == 1:
            assert (row["quality_delta"], row["perplexity_ratio"]) == (0.0, 1.0)
            assert row["backend"] == "dense"
    forced = made_study(tmp_path / "forced", force_at_one=True)
    own = [row for row in results_of(forced).rows() if row["k"] == 1]
    for row in own:
        assert row["perplexity_ratio"] == pytest.approx(math.exp(-1e-6), rel=1e-12)
        assert row["backend"] == ("masks" if row["phase"] == "prefill" else "torch")
    decode = one(own, phase="decode", seed="3")
    assert decode["speedup"] == decode["kernel_gain"] == 1.5 and decode["sparsity_gain"] == 1
    assert decode["tokens_per_sec"] == 1 / 2 and decode["limit_share"] is None


def test_gains_and_shares_of_the_limit(study: Study) -> None:
    rows = list(results_of(study).rows())
    for seed in SEEDS:
        row = one(rows, k=0.5, phase="decode", seed=str(seed))
        assert row["tokens_per_sec"] == pytest.approx(1 / (1.5 * (seed - 2)))
        assert row["dense_tokens_per_sec"] == pytest.approx(1 / (3 * (seed - 2)))
        assert (row["speedup"], row["kernel_gain"]) == (2.0, 1.5)
        assert row["sparsity_gain"] == pytest.approx(2 / 1.5)
        assert row["sparsity_gain_mlp"] == pytest.approx(2 / 1.5)
        assert row["limit_share"] == pytest.approx(2 / 1.5 / row["limit"])
        assert row["limit_share_mlp"] == pytest.approx(2 / 1.5 / row["limit_mlp"])
        prefill = one(rows, k=0.5, phase="prefill", seed=str(seed))
        assert prefill["tokens_per_sec"] == pytest.approx(5 / (15 * (seed - 2)))
        assert prefill["bytes_reduction"] == 0
        assert prefill["limit_share"] is prefill["speedup_mlp"] is None
        assert prefill["speedup"] == 2 and prefill["dense_tokens_per_sec"] > 0
        assert math.isnan(prefill["kernel_gain"]) and math.isnan(prefill["sparsity_gain"])
    mean = one(rows, k=0.5, phase="decode", seed="mean")
    assert mean["tokens_per_sec"] == pytest.approx((1 / 1.5 + 1 / 3) / 2)
    assert mean["tokens_per_sec_std"] == pytest.approx(np.std([1 / 1.5, 1 / 3], ddof=1))
    assert (mean["speedup"], mean["speedup_std"]) == (2.0, 0.0)
    dense = one(rows, k=1.0, phase="decode", seed="mean")
    assert dense["speedup"] == 1 and math.isnan(dense["sparsity_gain"])


def test_savings_are_those_of_the_limits(study: Study) -> None:
    costs = costs_of(study.model.config)
    rows = list(results_of(study).rows())
    decode = decode_savings(costs, "post-norm", 0.25, 9)
    prefill = prefill_savings(costs, "post-norm", 0.25, 5)  # 4 of 9 tokens are decoded
    for phase, savings in (("quality", decode), ("decode", decode), ("prefill", prefill)):
        row = one(rows, k=0.25, phase=phase, seed="3", task="all")
        for name in ("bytes_reduction", "bytes_reduction_mlp", "flops_reduction", "limit"):
            assert row[name] == getattr(savings, name)


def test_a_static_set_spares_the_prompt_too(tmp_path: Path) -> None:
    results = results_of(made_study(tmp_path, rule="static"))
    row = one(list(results.rows()), k=0.25, phase="prefill", seed="3")
    savings = prefill_savings(results.costs, "static", 0.25, 5)
    assert (
        savings.flops_reduction != prefill_savings(results.costs, "static", 0.25, 9).flops_reduction
    )
    assert row["flops_reduction"] == savings.flops_reduction > 0
    assert row["limit"] == savings.limit == 1 / (1 - savings.flops_reduction)
    assert row["speedup"] == 3 / 1.25 and math.isnan(row["limit_share"])


@pytest.mark.parametrize(
    ("rule", "prompt"),
    [("post-norm", "masks"), ("random", "masks"), ("static", "torch"), ("sequence", "dense")],
)
def test_rows_say_what_has_run(tmp_path: Path, rule: str, prompt: str) -> None:
    """A kernel reads one row: of a prompt's many, a rule has masks, a smaller matrix, or all."""
    for row in results_of(made_study(tmp_path, rule=rule)).rows():
        ran = {"quality": "masks", "decode": "torch", "prefill": prompt}[row["phase"]]
        assert row["backend"] == ("dense" if row["k"] == 1 else ran)


def test_what_tasks_keep_differs_and_spares_more_or_less(study: Study) -> None:
    costs, results = costs_of(study.model.config), results_of(study)
    rows = [row for row in results.rows() if row["phase"] == "quality"]
    for keep in LOST:
        for seed in ("3", "mean"):
            own = {task: one(rows, k=keep, seed=seed, task=task) for task in ("math", "qa", "all")}
            kept = {"math": 0.9 * keep, "qa": 1.1 * keep, "all": keep}
            for task, row in own.items():
                assert row["kept_fraction"] == pytest.approx(kept[task])
                savings = decode_savings(costs, "post-norm", row["kept_fraction"], 9)
                assert row["bytes_reduction"] == savings.bytes_reduction
            assert own["math"]["kept_fraction_std"] == (0 if seed == "mean" else None)
    # The line to 1 % is drawn over what the task itself keeps; every token of both loses alike.
    critical = list(results.critical_rows())
    of_math, of_qa = (one(critical, scope="task", task=t, seed="4") for t in ("math", "qa"))
    assert of_math["critical_sparsity_grid"] == pytest.approx(1 - 0.9 * 0.5)
    assert of_qa["critical_sparsity_grid"] == pytest.approx(1 - 1.1 * 0.5)
    assert of_math["critical_sparsity"] > of_qa["critical_sparsity"]


def test_critical_sparsity_lies_where_one_percent_is_lost(study: Study) -> None:
    rows = list(results_of(study).critical_rows())
    limit, values = math.log(1.01), []
    for seed in SEEDS:
        before, after = LOST[0.5] * (seed - 2), LOST[0.25] * (seed - 2)
        row = one(rows, scope="model", seed=str(seed))
        values.append(0.5 + 0.25 * (limit - before) / (after - before))
        assert row["critical_sparsity"] == pytest.approx(values[-1])
        assert row["critical_sparsity_grid"] == 0.5
        savings = decode_savings(costs_of(study.model.config), "post-norm", 1 - values[-1], 9)
        assert row["bytes_reduction"] == pytest.approx(savings.bytes_reduction)
        alone = one(rows, scope="layer", seed=str(seed))
        share = (limit - LOST_ALONE[0.5]) / (LOST_ALONE[0.25] - LOST_ALONE[0.5])
        assert alone["critical_sparsity"] == pytest.approx(0.5 + 0.25 * share)
        assert alone["bytes_reduction"] < row["bytes_reduction"]  # one layer of several
    mean = one(rows, scope="model", seed="mean")
    assert mean["critical_sparsity"] == pytest.approx(np.mean(values))
    assert mean["critical_sparsity_std"] == pytest.approx(np.std(values, ddof=1))


def test_what_was_not_measured_is_empty(study: Study) -> None:
    masked = list(results_of(study, has_speed=False).rows())
    assert {row["phase"] for row in masked} == {"quality"}
    assert {row[name] for row in masked for name in TIMED} == {None}
    timed = list(results_of(study, has_quality=False).rows())
    assert {row["phase"] for row in timed} == {"decode", "prefill"}
    assert {row["perplexity"] for row in timed} == {row["n_tokens"] for row in timed} == {None}


def test_one_task_has_no_row_of_its_own_in_critical(tmp_path: Path) -> None:
    results = results_of(made_study(tmp_path, seeds=(3,)))
    alone = Results(results.study, results.costs, ["math"], 9, 0, True, False)
    assert {row["scope"] for row in alone.critical_rows()} == {"model", "layer"}

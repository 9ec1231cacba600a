"""`sdlms dynamic-k` through the real command line: what each table says, and what stays."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdlms.dynamic import latent_rows, specialist_rows
from sdlms.dynamic.doubts import continued_fraction
from sdlms.dynamic.settings import LEAST_PROMPT
from sdlms.dynamic.tables import COLUMNS, CRITICAL_COLUMNS, TIMED
from sdlms.dynamic.windows import WindowSettings
from sdlms.models.gating.rules import RULES
from sdlms.models.kernels import building
from sdlms.runs.reading import Run
from tests.stages.gating_runs import (
    FAST,
    LENGTHS,
    MASKED,
    TASKS,
    TIMED_ALONE,
    drawn_by_the_stage,
    run_in,
    small_model,
    untimed,
)
from tests.stages.probe_runs import Cli, newest, outputs, table

Streams = pytest.CaptureFixture[str]
Row = dict[str, str]
TABLE, CRITICAL = "dynamic_k.csv", "critical.csv"
N_NEURONS = 192
SHORT_PROMPTS = replace(LENGTHS, stride=47)


def rows_where(rows: list[Row], **cells: str) -> list[Row]:
    return [row for row in rows if all(row[name] == cell for name, cell in cells.items())]


def test_a_run_of_quality_and_speed(cli: Cli, work: Path, capsys: Streams) -> None:
    words = ["--seeds", "2", "--layers", "1,2", "--rounds", "2"]
    assert cli("dynamic-k", *FAST, *words) == 0
    assert capsys.readouterr().out.strip() == str(newest(work).relative_to(work))
    run = Run(newest(work))
    declared = {record["path"]: record for record in run.all_of("output")}
    assert {name: each["columns"] for name, each in declared.items()} == {
        TABLE: COLUMNS,
        CRITICAL: CRITICAL_COLUMNS,
    }
    assert (declared[TABLE]["timed"], declared[CRITICAL].get("timed")) == (TIMED, None)
    resolved, decided = run.start["resolved"], run.start["decided"]
    assert resolved["model"]["name"] == "sdlms-small"
    assert [each["task"] for each in resolved["data"]] == TASKS
    assert (resolved["window"], resolved["stride"], resolved["layers"]) == (64, 32, [1, 2])
    assert resolved["tokens"] == {"0": 6 * 60, "1": 6 * 60}
    assert decided["backend"] in ("compiled", "torch")
    assert run.all_of("done")[0]["tokens"] == 2 * 6 * 60
    assert cli("runs", "verify", run.name) == 0

    rows, critical = table(run.path, TABLE), table(run.path, CRITICAL)
    assert list(rows[0]) == COLUMNS and list(critical[0]) == CRITICAL_COLUMNS
    seeds = ["0", "1", "mean"]
    keys = [("quality", seed, task) for seed in seeds for task in [*TASKS, "all"]]
    keys += [(phase, seed, "all") for phase in ("decode", "prefill") for seed in seeds]
    found = [(row["k"], row["phase"], row["seed"], row["task"]) for row in rows]
    assert found == [(k, *key) for k in ("0.5", "1.0") for key in keys]
    scopes = [("model", "", "all"), *(("task", "", task) for task in TASKS)]
    scopes += [("layer", "1", "all"), ("layer", "2", "all")]
    found = [(row["seed"], row["scope"], row["layer"], row["task"]) for row in critical]
    assert found == [(seed, *scope) for seed in seeds for scope in scopes]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The rows of a run of two seeds, quality and speed."""
    folder = tmp_path_factory.mktemp("both")
    return table(run_in(folder, ["dynamic-k", *FAST, "--seeds", "2"]), TABLE)


def test_everything_kept_is_the_model_itself(both: list[Row]) -> None:
    own = rows_where(both, k="1.0")
    for row in own:
        for ending in ("", "_low", "_high"):
            delta, ratio = row[f"quality_delta{ending}"], row[f"perplexity_ratio{ending}"]
            assert (delta, ratio) in (("0.0", "1.0"), ("nan", "nan"))
        assert (row["quality_delta"], row["perplexity_ratio"]) == ("0.0", "1.0")
        assert (row["kept_fraction"], row["bytes_reduction"], row["limit"]) == ("1.0", "0.0", "1.0")
        assert row["backend"] == "dense"
    for row in rows_where(own, phase="decode"):
        assert (row["speedup"], row["speedup_mlp"], row["limit_share"]) == ("1.0", "1.0", "")
        assert row["tokens_per_sec"] == row["dense_tokens_per_sec"]
        assert float(row["kernel_gain"]) > 0 and row["sparsity_gain"] == "nan"


def test_masks_have_no_speed_and_speed_has_the_quality_of_its_seed(both: list[Row]) -> None:
    masked = rows_where(both, phase="quality")
    assert {row[name] for row in masked for name in TIMED} == {""}
    of_masks = {(row["k"], row["seed"]): row for row in rows_where(masked, task="all")}
    for row in both:
        if row["phase"] != "quality":
            own = of_masks[row["k"], row["seed"]]
            for name in COLUMNS[COLUMNS.index("n_tokens") : COLUMNS.index("kept_fraction")]:
                assert row[name] == own[name]
            assert float(row["tokens_per_sec"]) > 0
            assert float(row["tokens_per_sec_p10"]) <= float(row["tokens_per_sec"]) * 1.0001


def test_means_are_those_of_the_seeds(both: list[Row]) -> None:
    for phase in ("quality", "decode", "prefill"):
        names = ["perplexity", "quality_delta", "kept_fraction"]
        names += [] if phase == "quality" else ["tokens_per_sec", "speedup", "dense_tokens_per_sec"]
        first, second, mean = rows_where(both, phase=phase, k="0.5", task="all")
        for name in names:
            seeds = [float(first[name]), float(second[name])]
            assert float(mean[name]) == pytest.approx(np.mean(seeds), rel=1e-12)
            if name + "_std" in mean:
                std = float(mean[name + "_std"])
                assert std == pytest.approx(np.std(seeds, ddof=1), rel=1e-9, abs=1e-12)
        assert int(mean["n_tokens"]) == int(first["n_tokens"]) + int(second["n_tokens"])


def test_a_decoded_token_skips_rows_and_a_prompt_does_not(both: list[Row]) -> None:
    decode, prefill = (rows_where(both, k="0.5", phase=name)[0] for name in ("decode", "prefill"))
    assert float(decode["kept_fraction"]) == 0.5
    assert float(decode["bytes_reduction_mlp"]) == pytest.approx(0.25)
    assert float(decode["limit_mlp"]) == pytest.approx(1 / 0.75)
    share = float(decode["sparsity_gain"]) / float(decode["limit"])
    assert float(decode["limit_share"]) == pytest.approx(share)
    assert (prefill["bytes_reduction"], prefill["limit"]) == ("0.0", "1.0")
    assert {prefill[name] for name in ("limit_share", "speedup_mlp", "limit_share_mlp")} == {""}
    assert decode["backend"] in ("compiled", "torch") and prefill["backend"] == "masks"
    assert prefill["kernel_gain"] == prefill["sparsity_gain"] == "nan"
    assert float(prefill["speedup"]) > 0 and float(decode["kernel_gain"]) > 0


def plain_losses(model: nn.Module, ids: Tensor, first: int) -> Tensor:
    """`[token - first]` losses of one window, as a reader of transformers' pages would write it."""
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].double()
    return nn.functional.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="none")


def keep_largest(module: nn.Linear, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Half of the neurons by magnitude times norm of the output row, written down plainly."""
    (acts,) = inputs
    scores = acts.abs() * module.weight.norm(dim=0)
    largest = scores.topk(N_NEURONS // 2, dim=-1).indices
    return (acts * torch.zeros_like(acts).scatter(-1, largest, 1.0),)


def test_perplexity_is_that_of_a_plain_loop_over_the_windows(both: list[Row]) -> None:
    windows, model = drawn_by_the_stage().windows, small_model()
    ids, scored = torch.from_numpy(windows.ids), torch.from_numpy(windows.scored)
    for keep in ("1.0", "0.5"):
        if keep == "0.5":
            for block in model.gpt_neox.layers:
                block.mlp.dense_4h_to_h.register_forward_pre_hook(keep_largest)
        losses = torch.stack([plain_losses(model, row, windows.first) for row in ids])
        rows = rows_where(both, k=keep, phase="quality", seed="0")
        for task, row in zip([*range(6), None], rows, strict=True):
            chosen = scored.clone()
            if task is not None:
                chosen[torch.from_numpy(windows.task != task)] = False
            assert int(row["n_tokens"]) == int(chosen.sum())
            perplexity = math.exp(float(losses[chosen].mean()))
            assert float(row["perplexity"]) == pytest.approx(perplexity, rel=1e-6)


def test_the_kernel_s_own_error_is_small_and_is_not_hidden(cli: Cli, work: Path) -> None:
    assert cli("dynamic-k", *MASKED, "--keep", "1", "--force-sparse-at-one") == 0
    (row, *_) = rows_where(table(newest(work), TABLE), task="all")
    assert row["backend"] == Run(newest(work)).start["decided"]["backend"]
    assert 0 < abs(float(row["quality_delta"])) < 1e-3
    assert row["kept_fraction"] == "1.0"
    (critical, *_) = table(newest(work), CRITICAL)
    assert critical["reason"].endswith("no sparsity was measured")


def test_speed_alone_says_nothing_of_quality(cli: Cli, work: Path) -> None:
    assert cli("dynamic-k", *TIMED_ALONE, "--backend", "torch") == 0
    assert set(outputs(newest(work))) == {TABLE}
    rows = table(newest(work), TABLE)
    assert [(row["k"], row["phase"], row["backend"]) for row in rows[::2]] == [
        ("0.5", "decode", "torch"),
        ("0.5", "prefill", "masks"),
        ("1.0", "decode", "dense"),
        ("1.0", "prefill", "dense"),
    ]
    assert {row["perplexity"] for row in rows} == {row["n_tokens"] for row in rows} == {""}


def test_without_a_compiler_auto_is_torch_and_says_why(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setenv("SDLMS_CACHE", str(work / "cache"))
    building.kernel.cache_clear()
    assert cli("dynamic-k", *TIMED_ALONE) == 0
    assert "no compiled kernel, torch instead: /bin/false failed" in capsys.readouterr().err
    decided = Run(newest(work)).start["decided"]
    assert decided["backend"] == "torch" and "/bin/false" in decided["backend_reason"]
    assert table(newest(work), TABLE)[0]["backend"] == "torch"


def test_keeps_that_tables_cannot_tell_apart_are_one(cli: Cli, work: Path) -> None:
    words = ["--keep", "0.5,0.2,0.5,0.50000001", "--tasks", "qa"]
    assert cli("dynamic-k", *MASKED, *words) == 0
    found = [row["k"] for row in table(newest(work), TABLE)]
    assert list(dict.fromkeys(found)) == ["0.2", "0.5"]


def test_a_text_of_one_s_own_is_one_task(cli: Cli, work: Path) -> None:
    paragraphs = [f"Here {n} roads cross, and {n * n} sheep went on. " * 9 for n in range(30)]
    (work / "my texts.txt").write_text("\n\n".join(paragraphs))
    assert cli("dynamic-k", *MASKED, "--texts", "my texts.txt") == 0
    run = Run(newest(work))
    assert [each["task"] for each in run.start["resolved"]["data"]] == ["my_texts"]
    assert {row["task"] for row in table(run.path, TABLE)} == {"my_texts", "all"}
    assert {row["scope"] for row in table(run.path, CRITICAL)} == {"model"}


def test_stride_and_window_are_halves_and_the_context_where_nobody_says(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    words = ["--model", tiny_model, "--window", "0", "--keep", "1", "--calibration-tokens", "0"]
    assert cli("dynamic-k", *MASKED, *words) == 0
    resolved = Run(newest(work)).start["resolved"]
    assert (resolved["window"], resolved["stride"]) == (96, 48)


def test_the_same_settings_give_the_same_bytes_and_other_seeds_others(cli: Cli, work: Path) -> None:
    words = [*FAST, "--rule", "random,sequence", "--layers", "2", "--tasks", "math,qa"]
    assert cli("dynamic-k", *words) == 0
    first = untimed(newest(work))
    assert cli("dynamic-k", *words) == 0
    assert untimed(newest(work)) == first
    own = ["--rule", "random", "--tasks", "math,qa", "--seed", "1"]
    assert cli("dynamic-k", *MASKED, *own) == 0
    other = table(newest(work), TABLE)
    assert {row["seed"] for row in other} == {"1", "mean"}
    assert other[0]["perplexity"] != first[TABLE][0]["perplexity"]  # type: ignore[index]


@pytest.mark.slow
def test_every_rule_with_neurons_and_latents_of_other_runs(
    cli: Cli, work: Path, given: dict[str, str], capsys: Streams
) -> None:
    words = ["--rule", ",".join(RULES), "--si", given["si"], "--sae", given["sae"]]
    assert cli("dynamic-k", *FAST, *words, "--layers", "0,1", "--max-tokens", "30") == 0
    assert "rule pre-abs ranks neurons by the magnitude" in capsys.readouterr().err
    run = Run(newest(work))
    assert {record["run"] for record in run.all_of("input")} == {given["si"], given["sae"]}
    assert set(outputs(run.path)) == {TABLE, CRITICAL, "specialized_units.csv", "latents.csv"}
    rows = table(run.path, TABLE)
    assert list(dict.fromkeys(row["rule"] for row in rows)) == list(RULES)
    for rule in RULES:
        own = rows_where(rows, rule=rule, task="all", seed="0")
        assert [(row["k"], row["phase"]) for row in own] == [
            (k, phase) for k in ("0.5", "1.0") for phase in ("quality", "decode", "prefill")
        ]
        assert 0.3 < float(own[0]["kept_fraction"]) < 0.7
        assert own[3]["quality_delta"] == "0.0"
        skips = rule == "static"
        assert (float(own[2]["bytes_reduction"]) > 0) == skips
    found = {rule: rows_where(rows, rule=rule, phase="quality", task="all")[0] for rule in RULES}
    for rule in ("threshold", "top-p"):
        by_task = rows_where(rows, rule=rule, phase="quality", k="0.5", seed="0")[:-1]
        assert len({row["kept_fraction"] for row in by_task}) == len(TASKS)
    delta = {rule: float(row["quality_delta"]) for rule, row in found.items()}
    assert delta["post-norm"] < min(delta["random"], delta["static"])
    # Layers without communities are not gated by blocks, alone neither.
    of_layers = rows_where(table(run.path, CRITICAL), scope="layer", seed="0")
    layers = {rule: [r["layer"] for r in of_layers if r["rule"] == rule] for rule in RULES}
    assert layers == {rule: ["1"] if "blocks" in rule else ["0", "1"] for rule in RULES}
    whole, part = float(found["post-norm"]["bytes_reduction"]), found["blocks"]["bytes_reduction"]
    assert float(part) == pytest.approx(whole * 2 / 3)

    units, latents = (table(run.path, n) for n in ("specialized_units.csv", "latents.csv"))
    for beside, columns in ((units, specialist_rows.COLUMNS), (latents, latent_rows.COLUMNS)):
        assert list(beside[0]) == columns
        assert list(dict.fromkeys(row["rule"] for row in beside)) == list(RULES)
        assert {row["k"] for row in beside} == {"0.5", "1.0"}
    assert {row["layer"] for row in latents} == {"2"}
    for row in latents:
        assert (row["fvu_gated"] == row["fvu_dense"]) == (row["k"] == "1.0")


def test_a_sequence_is_told_how_many_tokens_go_on_with_its_prompt(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    words = ["--rule", "sequence", "--stride", "47", "--keep", "0.2,1"]
    assert cli("dynamic-k", *MASKED, *words) == 0
    windows = drawn_by_the_stage(SHORT_PROMPTS).windows
    assert windows.first - 1 == LEAST_PROMPT
    expected = continued_fraction(windows)
    assert Run(newest(work)).start["resolved"]["continued"] == {"0": expected}
    assert f"{expected:.0%} of the scored tokens belong to the docu" in capsys.readouterr().err
    for row in rows_where(table(newest(work), TABLE), k="0.2"):
        assert row["perplexity_ratio"] != "1.0"
        assert float(row["kept_fraction"]) == pytest.approx(0.2, abs=0.003)


def test_blocks_of_a_run_of_other_tasks_are_kept_without_its_specialists(
    cli: Cli, work: Path, given: dict[str, str], capsys: Streams
) -> None:
    (work / "sheep.txt").write_text(
        "\n\n".join(f"{n} sheep went on a road. " * 20 for n in range(9))
    )
    words = ["--rule", "blocks", "--si", given["si"], "--texts", "sheep.txt"]
    assert cli("dynamic-k", *MASKED, *words) == 0
    assert "no specialized_units.csv: --si:" in capsys.readouterr().err
    assert set(outputs(newest(work))) == {TABLE, CRITICAL}


def test_speed_alone_reads_blocks_and_asks_nothing_beside(
    cli: Cli, work: Path, given: dict[str, str]
) -> None:
    words = ["--rule", "blocks", "--si", given["si"], "--backend", "torch"]
    assert cli("dynamic-k", *TIMED_ALONE, *words) == 0
    run = Run(newest(work))
    assert set(outputs(run.path)) == {TABLE}
    assert [record["run"] for record in run.all_of("input")] == [given["si"]]
    assert {row["rule"] for row in table(run.path, TABLE)} == {"blocks"}


def test_a_longer_window_is_read_as_one_says(cli: Cli, work: Path) -> None:
    lengths = WindowSettings(window=40, stride=40, max_tokens=100, calibration_tokens=0)
    words = ["--window", "40", "--stride", "40", "--max-tokens", "100", "--calibration-tokens", "0"]
    assert cli("dynamic-k", *MASKED, *words) == 0
    windows = drawn_by_the_stage(lengths).windows
    resolved = Run(newest(work)).start["resolved"]
    assert (resolved["window"], resolved["stride"]) == (40, 40)
    rows = rows_where(table(newest(work), TABLE), k="0.5", seed="0")
    assert [int(row["n_tokens"]) for row in rows] == [100] * 6 + [600]
    assert int(rows[-1]["n_documents"]) == len(windows.document_ids)

"""`sdlms scaling` through the real command line: real captures, and tables that are chosen."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdlms.cli import main
from sdlms.runs.reading import Run, list_runs
from sdlms.scaling import joining, trends
from sdlms.storage.cards import find_card
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, model_of, modular, trained
from tests.stages.probe_runs import Cli, newest, outputs, table

QUIET = ["--threads", "1", "--quiet"]
KILLING = Path(__file__).with_name("killing_stages.py")
Streams = pytest.CaptureFixture[str]


def joining_of(*runs: Run) -> list[object]:
    """The command that joins them."""
    return ["scaling", "--runs", ",".join(run.name for run in runs)]


class Real:
    """Captures of two embedded models, and autoencoders trained on each for a few steps."""

    def __init__(self, work: Path) -> None:
        self.work, self.artifacts = work, ["--artifacts", work / "artifacts"]
        self.captures, self.trainings = [], []
        for model in ("sdlms-medium", "sdlms-small"):
            words = ["--model", model, "--tasks", "qa,math", "--max-tokens", 1200]
            self.captures.append(self.run("capture", *words, *QUIET))
            words = ["--acts", self.captures[-1].path, "--arch", "topk", "--k", 4, "--width", 32]
            words += ["--tokens", 512, "--batch-size", 64, "--seeds", 1, "--ce-tokens", 0]
            self.trainings.append(self.run("sae-train", *words, *QUIET))
        names = [run.path for run in (*self.captures, *self.trainings)]
        self.words = ["scaling", "--runs", ",".join(map(str, names))]
        self.joined = self.run(*self.words)

    def run(self, *words: object) -> Run:
        """A command's run."""
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in [*words, *self.artifacts]])
        assert not stopped.value.code
        return Run(newest(self.work))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    yield Real(tmp_path_factory.mktemp("real"))


def test_a_run_says_what_it_joined(real: Real, cli: Cli) -> None:
    run = real.joined
    names = [source.name for source in (*real.captures, *real.trainings)]
    assert run.stage == "scaling"
    assert [record["run"] for record in run.all_of("input")] == names
    sizes = {name: find_card(name).parameters for name in ("sdlms-small", "sdlms-medium")}
    assert run.start["resolved"] == {
        "runs": names,
        "models": sizes,
        "depths": [0.25, 0.5, 0.75],
        "control": "none",
    }
    columns = {record["path"]: record["columns"] for record in run.all_of("output")}
    assert columns == {"scaling.csv": joining.COLUMNS, "trends.csv": trends.COLUMNS}
    assert cli("runs", "verify", run.path) == 0


def test_values_are_those_of_the_captures(real: Real) -> None:
    """Read again by hand, layer by layer."""
    rows = table(real.joined.path, "scaling.csv")
    layers = {"sdlms-small": {0.25: 1, 0.5: 2, 0.75: 2}, "sdlms-medium": {0.25: 1, 0.5: 2, 0.75: 3}}
    for capture in real.captures:
        model = capture.start["resolved"]["model"]["name"]
        own = {(row["layer"], row["task"]): row for row in table(capture.path, "sparsity.csv")}
        for depth, layer in layers[model].items():
            for task in ("qa", "math"):
                source = own[str(layer), task]
                wanted = ("capture", model, str(depth), task)
                found = {
                    row["metric"]: row
                    for row in rows
                    if (row["stage"], row["model"], row["relative_depth"], row["task"]) == wanted
                }
                assert len(found) == 6
                assert all(row["layer"] == str(layer) for row in found.values())
                value = found["activation_fraction"]
                assert value["value"] == source["activation_fraction"]
                margin = 1.96 * float(source["activation_fraction_se"])
                width = float(value["high"]) - float(value["low"])
                assert width == pytest.approx(2 * margin)
                share = float(source["participation_ratio"]) / int(source["n_units"])
                assert float(found["participation_fraction"]["value"]) == pytest.approx(share)
                assert value["run"] == capture.name


def test_values_are_those_of_the_selected_autoencoders(real: Real) -> None:
    rows = [row for row in table(real.joined.path, "scaling.csv") if row["stage"] == "sae-train"]
    for training in real.trainings:
        for source in table(training.path, "sae.csv"):
            own = [
                row
                for row in rows
                if (row["run"], row["layer"], row["metric"])
                == (training.name, source["layer"], "fvu")
            ]
            assert own
            for row in own:
                assert (row["value"], row["low"], row["high"]) == (
                    source["fvu"],
                    source["fvu_low"],
                    source["fvu_high"],
                )
                assert (row["task"], row["kind"], row["site"]) == ("all", "latent", "mlp_act")
    missing = [row for row in rows if row["metric"] == "ce_recovered"]
    assert missing and all(row["value"] == "nan" for row in missing)  # it was not measured


def test_two_models_have_slopes_and_no_intervals(real: Real) -> None:
    rows = table(real.joined.path, "trends.csv")
    sizes = [find_card(name).parameters for name in ("sdlms-small", "sdlms-medium")]
    for row in rows:
        if row["metric"] in ("ce_recovered", "ce_recovered_mean", "stability"):
            assert (row["n_models"], row["n_missing"]) == ("0", "2")
            assert row["reason"] == "no model has a value"
            continue
        assert (row["n_models"], row["n_missing"]) == ("2", "0")
        assert (row["spearman"], row["slope_low"], row["slope_high"]) == ("nan",) * 3
        assert row["reason"] == "2 model sizes, fewer than 3"
        rise = float(row["value_of_largest"]) - float(row["value_of_smallest"])
        decades = math.log10(sizes[1] / sizes[0])
        assert float(row["slope_per_decade"]) == pytest.approx(rise / decades, abs=1e-12)
    assert {row["relative_depth"] for row in rows} == {"0.25", "0.5", "0.75", "mean"}


def test_the_same_command_gives_the_same_bytes(real: Real) -> None:
    again = real.run(*real.words)
    assert again.name != real.joined.name
    assert outputs(again.path) == outputs(real.joined.path)


# Chosen tables


def three(work: Path) -> list[Run]:
    """Captures of three models whose activation fraction falls with size, and what reads them."""
    falls = {"small": 0.4, "medium": 0.3, "large": 0.1}
    captures = [captured(work, name, value=lambda _, own=own: own) for name, own in falls.items()]
    acts = dict(zip(falls, captures, strict=True))
    measured = [modular(work, name, acts[name], level=1 - own) for name, own in falls.items()]
    return [*captures, *measured]


def test_a_trend_over_three_models(cli: Cli, work: Path, capsys: Streams) -> None:
    assert cli(*joining_of(*three(work))) == 0
    streams = capsys.readouterr()
    assert streams.out.strip() == str(newest(work).relative_to(work))
    assert "small, 1,000,000 parameters; layer 1 at 0.25, layer 2 at 0.5, layer 2 at 0.75" in (
        streams.err
    )
    assert "large, 100,000,000 parameters; layer 2 at 0.25, layer 3 at 0.5, layer 5 at 0.75; " in (
        streams.err
    )
    assert "layers 0, 1, 4 left out" in streams.err
    assert "3 model sizes: every trend rests on as many points" in streams.err
    for row in table(newest(work), "trends.csv"):
        if row["metric"] == "activation_fraction":
            assert (row["spearman"], float(row["p_value"])) == ("-1.0", pytest.approx(1 / 3))
            ends = float(row["slope_low"]), float(row["slope_high"])
            assert ends == (pytest.approx(-0.2), pytest.approx(-0.1))
            assert float(row["slope_per_decade"]) == pytest.approx(-0.15)
        if row["metric"] == "SI":
            assert (row["spearman"], row["kind"]) == ("1.0", "neuron")
            assert row["reason"] == "3 models: the interval covers about 67%, not 95%"


def test_depths_are_those_the_runs_were_made_with(cli: Cli, work: Path) -> None:
    words = ("10%", "33.3%")
    runs = [captured(work, name, layers=[1, 2], words=words) for name in ("large", "huge")]
    runs[1] = captured(work, "huge", layers=[1, 3], words=words)
    assert cli(*joining_of(runs[0], runs[1]), "--quiet") == 0
    rows = table(newest(work), "scaling.csv")
    at = {(row["model"], row["relative_depth"], row["layer"]) for row in rows if row["layer"]}
    assert at == {
        ("large", "0.1", "1"),
        ("large", "0.333", "2"),
        ("huge", "0.1", "1"),
        ("huge", "0.333", "3"),
    }
    assert Run(newest(work)).start["resolved"]["depths"] == [0.1, 0.333]


def test_depths_may_be_named(cli: Cli, work: Path, capsys: Streams) -> None:
    runs = [modular(work, name) for name in ("small", "large")]
    assert cli(*joining_of(*runs), "--depths", "0%,100%") == 0
    rows = table(newest(work), "scaling.csv")
    assert {row["layer"] for row in rows if row["model"] == "large"} == {"0", "5", ""}
    runs = [captured(work, "small", layers=[1]), captured(work, "large")]
    assert cli(*joining_of(*runs)) == 0
    assert f"{runs[0].name} (small) has no layer at 0.5, 0.75" in capsys.readouterr().err


def test_controls_are_named_as_such(cli: Cli, work: Path, capsys: Streams) -> None:
    runs = [captured(work, name, control="reinit") for name in ("small", "medium")]
    assert cli(*joining_of(*runs)) == 0
    assert "controls, not the models themselves: reinit" in capsys.readouterr().err
    assert {row["control"] for row in table(newest(work), "scaling.csv")} == {"reinit"}


def test_gated_models_are_joined_whole_and_by_layer(cli: Cli, work: Path, capsys: Streams) -> None:
    sizes = {"small": 0.5, "medium": 0.6, "large": 0.7}
    runs = [gated(work, name, critical=c, excess=1 - c) for name, c in sizes.items()]
    runs[2] = gated(work, "large", critical=0.7, excess=0.3, decided={"device_name": "a GPU"})
    assert cli(*joining_of(*runs)) == 0
    streams = capsys.readouterr().err
    assert "dynamic-k: sparsity_gain_mlp, speedup, speedup_mlp are not joined: the machine" in (
        streams
    )
    rows = table(newest(work), "trends.csv")
    at = {row["relative_depth"] for row in rows if row["metric"] == "critical_sparsity"}
    assert at == {"0.25", "0.5", "0.75", "mean", "model"}
    whole = [row for row in rows if row["relative_depth"] == "model" and row["task"] == "all"]
    named = {(row["kind"], row["metric"]): row for row in whole}
    assert float(named["input", "critical_sparsity"]["slope_per_decade"]) == pytest.approx(0.1)
    assert named["post-norm:0.3", "perplexity_ratio"]["spearman"] == "-1.0"
    assert named["post-norm:1.0", "perplexity_ratio"]["reason"] == "the same value in all models"
    assert not {metric for _, metric in named if "gain" in metric or "speedup" in metric}


# Refusals


def refused(cli: Cli, work: Path, capsys: Streams, *words: object) -> str:
    """The line that a command is refused with; nothing is written."""
    before = list_runs(work / "artifacts", partial=True)
    capsys.readouterr()
    assert cli(*words) == 2
    assert list_runs(work / "artifacts", partial=True) == before
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sdlms: ")]
    return line


def test_too_few_names_are_refused(cli: Cli, work: Path, capsys: Streams) -> None:
    run = captured(work, "small")
    assert "--runs names 0 runs" in refused(cli, work, capsys, "scaling")
    line = refused(cli, work, capsys, *joining_of(run))
    assert "--runs names 1 runs; at least two are needed, of two models." in line
    for words in ("latest", f"{run.name},latest"):
        line = refused(cli, work, capsys, "scaling", "--runs", words)
        assert "--runs latest is one run, of one model; a trend needs several." in line
    line = refused(cli, work, capsys, "scaling", "--runs", f"{run.name},{run.path}")
    assert f"--runs names {run.name} twice" in line
    line = refused(cli, work, capsys, *joining_of(run), "--depths", "3")
    assert "--runs names 1" in line


def test_depths_that_are_none_are_refused(cli: Cli, work: Path, capsys: Streams) -> None:
    runs = [captured(work, name) for name in ("small", "medium")]
    for word in ("3", "all", "101%", "half"):
        line = refused(cli, work, capsys, *joining_of(*runs), "--depths", word)
        assert line == f"sdlms: --depths: '{word}' is no percentage of the depth, such as 25%."
    line = refused(cli, work, capsys, *joining_of(*runs), "--depths", "0%")
    assert "has layers 1, 2 of 3, none of which is at a relative depth of 0." in line


def test_runs_that_do_not_compare_are_refused(cli: Cli, work: Path, capsys: Streams) -> None:
    small, medium = captured(work, "small"), captured(work, "medium")

    def line(*runs: Run) -> str:
        return refused(cli, work, capsys, *joining_of(*runs))

    assert "is a 'scaling' run; a 'capture' or 'sae-train' or 'si-modularity' or " in line(
        small, made(cli, work, small, medium)
    )
    assert "are both capture of small" in line(small, captured(work, "small"), medium)
    assert "of one model alone (medium)" in line(small, medium, trained(work, "medium"))
    assert "controls are joined with their like" in line(
        small, captured(work, "medium", control="reinit")
    )
    assert "has the task 'code'" in line(small, captured(work, "medium", tasks=("qa", "code")))
    assert "6 are the same" in line(small, captured(work, "medium", n_documents=7))
    assert "--keep is 0.3, 1.0 in" in line(gated(work, "small"), gated(work, "medium", keep=[0.5]))
    assert "threshold rule of mlp_act" in line(small, captured(work, "medium", rule="zero"))
    assert "of units of resid_post in medium" in line(
        small, captured(work, "medium", sites=("resid_post",))
    )
    same = model_of("medium", weights=model_of("small")["weights"])
    assert "of one model under two names" in line(small, captured(work, "medium", model=same))
    earlier = {key: value for key, value in model_of("medium").items() if key != "n_parameters"}
    assert "Capture anew." in line(small, captured(work, "medium", model=earlier))
    assert "no run 'nothing'" in refused(
        cli, work, capsys, "scaling", "--runs", f"{small.name},nothing"
    )


def made(cli: Cli, work: Path, *runs: Run) -> Run:
    """A scaling run."""
    assert cli(*joining_of(*runs), "--quiet") == 0
    return Run(newest(work))


# Resuming


def test_an_interrupt_is_resumed_with_the_same_bytes(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = three(work)
    whole = made(cli, work, *runs)
    calls = []

    def interrupted(series: joining.Series, seed: int) -> joining.Row:
        calls.append(series)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return trend_row(series, seed)

    trend_row = trends.trend_row
    with monkeypatch.context() as context:
        context.setattr(trends, "trend_row", interrupted)
        assert cli(*joining_of(*runs), "--quiet") == 130
    assert cli(*joining_of(*runs), "--quiet", "--resume") == 0
    resumed = Run(newest(work))
    assert resumed.all_of("resume") and resumed.name != whole.name
    assert outputs(resumed.path) == outputs(whole.path)
    assert len(resumed.all_of("input")) == 6
    assert cli("runs", "verify", resumed.name) == 0


def test_another_run_of_the_same_name_is_not_continued_on(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    runs = [captured(work, name) for name in ("small", "medium")]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(trends, "trend_row", interrupted)
        assert cli(*joining_of(*runs)) == 130
    meta = runs[0].path / "meta.jsonl"
    meta.chmod(0o644)
    first, *rest = meta.read_text().splitlines(keepends=True)
    meta.write_text("".join([first.replace('"seed": 0', '"seed": 1'), *rest]))
    capsys.readouterr()
    assert cli(*joining_of(*runs), "--resume") == 2
    assert f"sdlms: {runs[0].name} is not the run that" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_random_points_and_resumed_gives_the_same_bytes(work: Path) -> None:
    runs = three(work)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, KILLING, "8", *map(str, joining_of(*runs)), "--quiet"],
        cwd=work, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kills"] >= 8 and found["runs"] == 9 and found["different"] == 0


def test_runs_may_lie_elsewhere(cli: Cli, work: Path) -> None:
    """Named by path, as when artifacts of several machines are brought together."""
    runs = [captured(work, name) for name in ("small", "medium")]
    shutil.move(work / "artifacts", work / "there")
    paths = [f"there/{run.name}" for run in runs]
    assert cli("scaling", "--runs", ",".join(paths), "--quiet") == 0
    found = {row["run"] for row in table(newest(work), "scaling.csv")}
    assert found == {run.name for run in runs}

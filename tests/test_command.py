"""A dataclass becomes a command: where values come from, what a stage is given."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from sdlms.command import ComputeConfig, StageConfig, add_stage, execute, parameter_of
from sdlms.errors import UserError
from sdlms.options import options_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """A stage with a setting of each kind."""

    count: Annotated[int, "How many."] = 1
    layers: Annotated[tuple[str, ...], "Which."] = ("25%", "75%")
    word: Annotated[str | None, "A word."] = None
    save: Annotated[bool, "Keep it."] = True


def write(config: Config, out: RunWriter) -> None:
    """A stage of one file."""
    out.start(resolved={}, decided={})
    (out.path / "table.csv").write_text(f"{config.count}\n")
    out.output("table.csv")


Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDLMS_ARTIFACTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def call(run: Callable[[Any, RunWriter], None], *words: str) -> Result:
    """The command line of one stage, `some-stage`."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    add_stage(app, "some-stage", Config, run)
    return CliRunner().invoke(app, ["some-stage", *words])


def given_to_a_stage(*words: str) -> tuple[Config, RunOptions]:
    """The settings that a stage sees."""
    seen: list[tuple[Config, RunOptions]] = []
    result = call(lambda config, out: seen.append((config, out.options)), *words)
    assert seen, result.output or repr(result.exception)
    return seen[0]


def artifacts_of(*words: str) -> Path:
    return given_to_a_stage(*words)[1].artifacts


def test_without_words_a_stage_sees_its_defaults() -> None:
    assert given_to_a_stage() == (Config(), RunOptions())


def test_flags_reach_the_config() -> None:
    words = ["--count", "3", "--layers", "0, 2", "--word=x", "--no-save", "--seed", "7"]
    expected = Config(count=3, layers=("0", "2"), word="x", save=False, seed=7)
    assert given_to_a_stage(*words)[0] == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.none() | st.integers(), st.none() | st.integers())
def test_a_flag_wins_over_the_file_and_the_file_over_the_default(
    file: int | None, flag: int | None
) -> None:
    Path("config.toml").write_text("" if file is None else f"count = {file}\n")
    words = [] if flag is None else ["--count", str(flag)]
    found = given_to_a_stage("--config", "config.toml", *words)[0].count
    assert found == next(value for value in (flag, file, Config().count) if value is not None)


def test_the_environment_stands_between_default_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("config.toml").write_text("artifacts = 'from-file'\n")
    assert artifacts_of() == Path("artifacts")
    monkeypatch.setenv("SDLMS_ARTIFACTS", "from-environment")
    assert artifacts_of() == Path("from-environment")
    assert artifacts_of("--config", "config.toml") == Path("from-file")
    assert artifacts_of("--config", "config.toml", "--artifacts", "flag") == Path("flag")
    monkeypatch.setenv("SDLMS_ARTIFACTS", "")
    assert artifacts_of() == Path("artifacts")


def test_switches_in_a_file_can_be_turned_back_by_a_flag() -> None:
    Path("config.toml").write_text("save = false\nresume = true\n")
    config, options = given_to_a_stage("--config", "config.toml")
    assert (config.save, options.resume) == (False, True)
    assert given_to_a_stage("--config", "config.toml", "--save")[0].save


def test_the_keys_of_meta_jsonl_are_the_fields_of_the_config() -> None:
    result = call(write, "--layers", "0,2", "--label", "x")
    start = Run(Path(result.stdout.splitlines()[-1])).start
    assert start["config"] == {
        "seed": 0,
        "count": 1,
        "layers": ["0", "2"],
        "word": None,
        "save": True,
    }


def test_the_recorded_config_repeats_the_run() -> None:
    config = {"count": 4, "layers": ["1"], "word": "w", "save": False, "seed": 2}
    Path("again.toml").write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in config.items()))
    result = call(write, "--config", "again.toml")
    assert Run(Path(result.stdout.splitlines()[-1])).start["config"] == config


def test_the_last_line_on_stdout_is_the_path_of_the_run() -> None:
    result = call(write)
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert Run(Path(line)).complete


def test_a_folder_whose_name_is_not_utf8_is_written_and_named() -> None:
    folder = os.fsdecode(b"caf\xe9")
    result = call(write, "--artifacts", folder)
    assert result.exit_code == 0, repr(result.exception)
    assert os.fsdecode(result.stdout_bytes.strip()).startswith(f"{folder}/")
    assert Run(Path(os.fsdecode(result.stdout_bytes.strip()))).complete


@pytest.mark.parametrize(
    "words", [["--count", "x"], ["--layers"], ["--counts", "1"], ["--label", "a b"], ["extra"]]
)
def test_a_bad_word_stops_before_the_stage(words: list[str]) -> None:
    def run(config: Config, out: RunWriter) -> None:
        pytest.fail("the stage was run")

    result = call(run, *words)
    assert isinstance(result.exception, UserError) or result.exit_code == 2
    assert not Path("artifacts").exists()


def test_help_shows_defaults_commas_and_the_environment() -> None:
    text = " ".join(call(write, "--help").stdout.split())
    assert "A dataclass becomes a command" in text  # the first line of the config's module
    assert "--layers <a,b,...> Which. [default: 25%,75%]" in text
    assert "--count <int> How many. [default: 1]" in text
    assert "--word <text> A word. --" in text  # no default is shown where there is none
    assert "--save / --no-save Keep it. [default: save]" in text
    assert "[env: SDLMS_ARTIFACTS]" in text
    assert "--no-resume" not in text and "--no-reuse" not in text


def test_a_run_is_made_once_where_it_is_reused() -> None:
    first, second, third = (call(write, *words).stdout for words in ([], ["--reuse"], []))
    assert first == second != third
    Path("config.toml").write_text("reuse = true\nresume = true\n")
    assert call(write, "--config", "config.toml").stdout == third
    other = call(write, "--config", "config.toml", "--count", "2").stdout
    assert len({first, third, other}) == 3


def test_help_of_every_option_says_something() -> None:
    for parameter in (parameter_of(option) for option in options_of(Config)):
        (option,) = parameter.annotation.__metadata__
        assert option.help


class TestExecute:
    def test_an_interrupt_leaves_a_partial_run_and_exits_with_130(self) -> None:
        def run(config: Config, out: RunWriter) -> None:
            out.start(resolved={}, decided={})
            raise KeyboardInterrupt

        result = call(run)
        assert result.exit_code == 130
        assert "--resume continues here" in result.output
        (partial,) = Path("artifacts").iterdir()
        assert Run(partial).status == "interrupted"

    def test_an_interrupt_before_the_run_began_promises_no_resume(self) -> None:
        def run(config: Config, out: RunWriter) -> None:
            raise KeyboardInterrupt

        result = call(run)
        assert result.exit_code == 130
        assert "--resume" not in result.output
        assert not Path("artifacts").exists()

    @pytest.mark.parametrize("error", [UserError("mend it"), RuntimeError("our bug")])
    def test_other_exceptions_pass_and_are_recorded(self, error: Exception) -> None:
        def run(config: Config, out: RunWriter) -> None:
            out.start(resolved={}, decided={})
            raise error

        with pytest.raises(type(error)):
            execute("some-stage", Config(), RunOptions(), run)
        (partial,) = Path("artifacts").iterdir()
        assert Run(partial).status == "failed"


class TestComputeConfig:
    @pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
    def test_devices_are_taken(self, device: str) -> None:
        assert ComputeConfig(device=device).device == device

    @pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU"])
    def test_other_devices_are_refused(self, device: str) -> None:
        with pytest.raises(UserError, match="--device"):
            ComputeConfig(device=device)

    def test_threads_are_counted_from_0(self) -> None:
        with pytest.raises(UserError, match="--threads"):
            ComputeConfig(threads=-1)

    @pytest.mark.parametrize(("cores", "most"), [(None, 64), (2, 64), (16, 64), (48, 192)])
    def test_threads_are_few_times_the_cores(
        self, monkeypatch: pytest.MonkeyPatch, cores: int | None, most: int
    ) -> None:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        assert ComputeConfig(threads=most).threads == most
        with pytest.raises(UserError, match=f"--threads must be at most {most} on this machine"):
            ComputeConfig(threads=most + 1)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        ("-1", "--seed must be >= 0, got -1."),
        (str(2**64), f"--seed must be below 2**64, got {2**64}."),
    ],
)
def test_a_seed_is_one_that_every_generator_takes(seed: str, message: str) -> None:
    given_to_a_stage("--seed", str(2**64 - 1))
    error = call(write, "--seed", seed).exception
    assert isinstance(error, UserError)
    assert str(error) == message
    with pytest.raises(UserError, match="--seed must be"):
        ComputeConfig(seed=int(seed))

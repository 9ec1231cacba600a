"""The command line as a user meets it: one line for what they can mend, a traceback for our bugs.

Most tests call `main` in this process; a few start another. No model is loaded: the folder that
`--model` names holds a config and nothing else, and the errors come before that matters.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

from sdlms import cli
from sdlms.cli import main
from sdlms.stages import capture


class Answer(NamedTuple):
    """What a command gave back."""

    code: int | str | None
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Call `main` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDLMS_ARTIFACTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call_main(*words: str) -> Answer:
        with pytest.raises(SystemExit) as stopped:
            main(words)
        captured = capsys.readouterr()
        return Answer(stopped.value.code, captured.out, captured.err)

    return call_main


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder that has a model's config, and no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_type": "gpt_neox", "num_hidden_layers": 4, "hidden_size": 8}
    config |= {"num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def assert_one_line(answer: Answer, message: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr that holds `message`."""
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith("sdlms: ") and answer.err.endswith("\n")
    assert answer.err.count("\n") == 1
    assert message in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["captur"], "No such command 'captur'. Did you mean 'capture'?"),
        (["runs", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["models", "shw"], "No such command 'shw'. Did you mean 'show'?"),
        (["--capture"], "No such option: --capture"),
        (["capture", "--modle", "x"], "No such option: --modle. Did you mean '--model'?"),
        (["capture", "--store-dtyp", "x"], "Did you mean '--store-dtype'?"),
        (["capture", "extra"], "(extra)"),
        (["capture", "--seed"], "'--seed' requires an argument"),
        (["capture", "--seed", "1.5"], "--seed: expected an integer, got '1.5'."),
        (["capture", "--seed", "-1"], "--seed must be >= 0, got -1."),
        (["capture", "--max-tokens", "0"], "--max-tokens must be >= 1, got 0."),
        (["capture", "--dtype", "int8"], "--dtype: expected one of auto, float32, bfloat16"),
        (["capture", "--store-dtype", "f16"], "--store-dtype: expected one of"),
        (["capture", "--device", "tpu"], "--device 'tpu' is none of auto, cpu"),
        (["capture", "--threads", "-1"], "--threads must be 0 (all cores) or more, got -1."),
        (["capture", "--layers", "x"], "--layers: 'x' is neither an index"),
        (["capture", "--layers", ""], "--layers is empty"),
        (["capture", "--site", "mlp_atc"], "unknown site 'mlp_atc'. Did you mean 'mlp_act'?"),
        (["capture", "--site", ""], "--site is empty"),
        (["capture", "--label", "a/b"], "--label may hold letters"),
        (["capture", "--texts", ""], "--texts: expected a path, got ''."),
        (["capture", "--texts", "a.txt", "--tasks", "math"], "exclude each other"),
        (["capture", "--config", "none.toml"], "--config none.toml: No such file"),
        (["capture", "--config", "."], "--config .: Is a directory"),
        (["runs", "show", "nosuch"], "no run 'nosuch'"),
        (["runs", "remove"], "Missing argument"),
    ],
)
def test_a_mistake_gets_one_line(call: Call, words: list[str], message: str) -> None:
    assert_one_line(call(*words), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"max_token = 3", "unknown key 'max_token'. Did you mean 'max_tokens'?"),
        (b'"max-tokens" = 3', "unknown key 'max-tokens'. Did you mean 'max_tokens'?"),
        (b"config = 'other.toml'", "unknown key 'config'. Known: model, "),
        (b"[capture]\nseed = 1", "unknown key 'capture'. Tables are not read"),
        (b"model =", "not valid TOML: Invalid value"),
        (b"\xff\xfe\x00", "not UTF-8 text; is this a binary file?"),
        (b"max_tokens = 'many'", "'max_tokens': expected an integer, got 'many'."),
        (b"layers = 3", "'layers': expected an array, got 3."),
        (b"dtype = 'int8'", "'dtype': expected one of auto, float32"),
        (b"save = 'no'", "'save': expected true or false, got 'no'."),
    ],
)
def test_a_mistake_in_a_config_file_names_the_file(
    call: Call, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "my.toml").write_bytes(content)
    assert_one_line(call("capture", "--config", "my.toml"), f"sdlms: my.toml: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers", "4"], "there is no layer 4; the model has layers 0 to 3"),
        (["--tasks", "maths"], "unknown task 'maths'. Did you mean 'math'?"),
        (["--tasks", "none.jsonl"], "--tasks none.jsonl: no such file"),
        (["--tasks", "./"], "--tasks ./: is a folder"),
        (["--tasks", "malformed.jsonl"], "malformed.jsonl:2: not valid JSON"),
        (["--tasks", "key.jsonl"], "key.jsonl:1: unknown key 'texts'. Did you mean 'text'?"),
        (["--tasks", "twice.jsonl"], "task 'b' has no documents"),
        (["--tasks", "gone.jsonl"], "gone.jsonl:1: gone.txt: no such file"),
        (["--texts", "none.txt"], "none.txt: no such file"),
        (["--texts", "empty.txt"], "empty.txt: the file is empty"),
        (["--texts", "binary.txt"], "binary.txt: not UTF-8 text; is this a binary file?"),
        (["--texts", "field.jsonl"], "field.jsonl:1: no field 'text'. Did you mean 'texts'?"),
        (["--texts", "model"], "model: is a folder"),
        (["--device", "cuda:99"], "--device cuda:99: this machine has"),
    ],
)
def test_a_mistake_in_the_data_gets_one_line_and_writes_nothing(
    call: Call, tmp_path: Path, model: str, words: list[str], message: str
) -> None:
    files = {
        "malformed.jsonl": b'{"task": "a", "text": "x"}\n{"task": "a", "text": x}\n',
        "key.jsonl": b'{"task": "a", "texts": "x"}\n',
        "twice.jsonl": b'{"task": "a", "text": "x"}\n{"task": "b", "text": "x"}\n',
        "gone.jsonl": b'{"task": "a", "file": "gone.txt"}\n',
        "empty.txt": b"",
        "binary.txt": b"\x7fELF\x02\x01\x01\x00",
        "field.jsonl": b'{"texts": "x"}\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert_one_line(call("capture", "--model", "model", *words), message)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "sdlms-medum"], "Did you mean 'sdlms-medium'?"),
        (["--model", "empty"], "the folder has no config.json"),
        (["--model", "model", "--revision", "main"], "--revision is for hub models"),
    ],
)
def test_a_mistaken_model_gets_one_line(
    call: Call, tmp_path: Path, model: str, words: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_line(call("capture", *words), message)


def test_a_message_stays_on_one_line_whatever_the_user_wrote(call: Call) -> None:
    assert_one_line(call("capture", "--label", "two\nlines"), "'two lines'")


@pytest.mark.parametrize("words", [[], ["runs"], ["models"]])
def test_a_group_alone_shows_its_help(call: Call, words: list[str]) -> None:
    answer = call(*words)
    assert answer.code == 2 and answer.out == ""
    assert answer.err == call(*words, "--help").out


@pytest.mark.parametrize(
    "words", [[], ["capture"], ["runs"], ["runs", "show"], ["models"], ["models", "show"]]
)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_fits_80_columns_and_leaves_no_option_unexplained(
    call: Call, words: list[str], flag: str
) -> None:
    answer = call(*words, flag)
    assert answer.code == 0 and answer.err == ""
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    _, _, options = answer.out.partition("Options:\n")
    options = options.partition("\n\n")[0]
    for entry in re.split(r"\n  (?=-)", options):
        assert re.search(r"(\s{2,}|\n\s+)[A-Za-z]", entry.strip()), entry


def test_help_of_the_stage_is_its_first_line_uncut(call: Call) -> None:
    assert capture.__doc__
    first = capture.__doc__.partition("\n")[0]
    assert first in " ".join(call("--help").out.split())


def test_lists_show_that_they_take_commas(call: Call) -> None:
    text = call("capture", "--help").out
    for flag in ("--tasks", "--layers", "--site"):
        assert f"{flag} <a,b,...>" in text
    assert "<str>" not in text


def test_the_version_is_that_of_the_package(call: Call) -> None:
    answer = call("--version")
    assert answer.code == 0
    assert answer.out == f"sdlms {metadata.version('sdlms')}\n"


def test_the_environment_names_the_artifacts_folder(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDLMS_ARTIFACTS", str(tmp_path / "file" / "runs"))
    assert_one_line(call("capture"), "Choose another folder with --artifacts")


def test_every_stage_of_the_table_is_a_command(call: Call) -> None:
    text = call("--help").out
    for stage in cli.STAGES:
        assert re.search(rf"^  {stage.__name__.rpartition('.')[2].replace('_', '-')} ", text, re.M)


def test_an_interrupt_exits_with_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(capture, "_plan", interrupt)
    answer = call("capture")
    assert answer.code == 130
    assert "Traceback" not in answer.err


def test_our_bugs_are_not_caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(config: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(capture, "_plan", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["capture"])


def run_program(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Another Python in an empty folder."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=60
    )


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = run_program("-m", "sdlms", "captur", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "sdlms: No such command 'captur'. Did you mean 'capture'?\n"


def test_a_bug_shows_its_traceback_and_exits_with_1(tmp_path: Path) -> None:
    program = (
        "from sdlms.cli import main\n"
        "from sdlms.stages import capture\n"
        "def fail(config): raise ValueError('a bug')\n"
        "capture._plan = fail\n"
        "main(['capture'])\n"
    )
    done = run_program("-c", program, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("ValueError: a bug\n")


def test_arguments_that_are_not_utf8_get_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"sdlms", b"capture", b"--site", b"caf\xe9"],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"sdlms: --site: unknown site") and done.stderr.count(b"\n") == 1

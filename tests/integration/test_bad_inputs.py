"""Bad inputs of every command: files, runs, models and folders that are not what they should be.

Each is one line, exit code 2, and leaves no trace. What is wrong with the words themselves is tried
in `test_misspelt_options.py`.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from sdlms.cli import NAMED
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from tests.conftest import Cli
from tests.integration.studies import Study, linked
from tests.runs.small_runs import make_partial

pytestmark = pytest.mark.slow
Refused = Callable[..., None]

# Per stage the flags that name a run, and the step of the study whose run belongs there.
RUN_FLAGS = [
    ("sae-train", "--acts", "capture"),
    ("sae-latents", "--sae", "sae-train"),
    ("sae-latents", "--acts", "capture"),
    ("sae-evaluate", "--sae", "sae-train"),
    ("sae-evaluate", "--acts", "capture"),
    ("probe", "--acts", "capture"),
    ("si-modularity", "--acts", "capture"),
    ("si-modularity", "--controls", "capture"),
    ("dynamic-k", "--si", "si-modularity"),
    ("dynamic-k", "--sae", "sae-train"),
    ("logit-lens", "--tuned-lens", "logit-lens"),
    ("explore", "--tuned-lens", "logit-lens"),
    ("scaling", "--runs", "capture"),
    ("report", "--runs", "capture"),
]
# What the other flags must be, for the run to be what is wrong; {step} is a run of the study.
BESIDE = {
    "sae-train": ["--arch=topk", "--k=8", "--width=64"],
    "sae-latents": ["--sae={sae-train}"],
    "sae-evaluate": ["--sae={sae-train}", "--ce-tokens=0"],
    "si-modularity": ["--acts={capture}", "--no-graph"],
    "dynamic-k": ["--model=sdlms-small", "--measure=quality"],
    "logit-lens": ["--model=sdlms-small"],
    "explore": ["--model=sdlms-small", "--port=0"],
    "scaling": ["--runs={capture},{si-modularity}"],
}
LISTS = [("sae-evaluate", "--sae"), ("si-modularity", "--controls")]  # may name none, or many
READ_TEXTS = ("capture", "sae-train", "dynamic-k", "logit-lens")
RUN_MODELS = (*READ_TEXTS, "explore")


@pytest.fixture(scope="module")
def broken(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files, models and runs that cannot be used, and the study's runs."""
    folder: Path = tmp_path_factory.mktemp("broken")
    artifacts = folder / "artifacts"
    linked(list(study.runs.values()), artifacts)
    for step in ("capture", "sae-train", "si-modularity", "logit-lens"):
        damage(study.runs[step], artifacts / f"20200101_000000_{step}_cut")
    make_partial(artifacts, label="unfinished").path.rename(
        artifacts / ".20200101_000000_capture_unfinished.partial"
    )
    for end in ("txt", "jsonl", "toml", "csv"):
        (folder / f"empty.{end}").touch()
        (folder / f"binary.{end}").write_bytes(bytes(range(256)))
        (folder / f"folder.{end}").mkdir()
    (folder / "taken").write_text("a file")
    (folder / "hollow").mkdir()
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    BertModel(config).save_pretrained(folder / "encoder")
    (folder / "no-json").mkdir()
    (folder / "no-json/config.json").write_text("{")
    return folder


def damage(run: Path, copy: Path) -> None:
    """A copy whose files are cut in half, all but its record."""
    shutil.copytree(run, copy)
    make_writable(copy)
    for path in copy.rglob("*"):
        if path.is_file() and path.name != META:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def refused(
    cli: Cli, broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refused:
    """Checks that a command is refused in one line and leaves everything as it was."""
    monkeypatch.chdir(broken)

    def check(*words: str, names: str) -> None:
        before = seen(broken)
        code = cli(*words)
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        assert err.startswith("sdlms: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert names in err, err
        assert seen(broken) == before

    return check


def seen(folder: Path) -> set[Path]:
    """Every file and folder, apart from what a model writes into its cache."""
    return set(folder.rglob("*"))


def words_beside(stage: str, flag: str, study: Study) -> list[str]:
    """The flags that are right, but for the one that is tried."""
    names = {name: run.name for name, run in study.runs.items()}
    beside = [word.format(**names) for word in BESIDE.get(stage, [])]
    return [word for word in beside if not word.startswith(f"{flag}=")]


def run_cases() -> Iterator[tuple[str, str, str, str]]:
    """Stage, flag, what it names, and what is named in the message."""
    for stage, flag, step in RUN_FLAGS:
        yield stage, flag, "20990101_000000_nowhere", "20990101_000000_nowhere"
        yield stage, flag, "20200101_000000_capture_unfinished", "unfinished"
        yield stage, flag, f"20200101_000000_{step}_cut", "damaged"
        yield stage, flag, "./hollow", "hollow"
        if (stage, flag) not in LISTS:
            yield stage, flag, "", "sdlms: "
        yield stage, flag, "./taken", "taken"
        if stage != "report":
            yield stage, flag, "{probe}", "'probe' run"


@pytest.mark.parametrize(("stage", "flag", "run", "names"), list(run_cases()))
def test_runs_that_are_not_there_unfinished_damaged_or_of_another_stage(
    stage: str, flag: str, run: str, names: str, refused: Refused, study: Study
) -> None:
    value = study.runs["probe"].name if run == "{probe}" else run
    if flag == "--runs" and stage == "scaling":
        value = f"{study.runs['si-modularity'].name},{value}"
    quiet = ["--quiet"]
    refused(stage, *words_beside(stage, flag, study), f"{flag}={value}", *quiet, names=names)


def file_cases() -> Iterator[tuple[str, str, str]]:
    """Stage, flag, file."""
    ends = {"--texts": "txt", "--tasks": "jsonl"}
    for name in ("none", "empty", "binary", "folder"):
        for stage in READ_TEXTS:
            for flag, end in ends.items():
                yield stage, flag, f"./{name}.{end}"
        yield "probe", "--labels", f"./{name}.csv"
        if name != "empty":  # no settings are settings
            for stage in (*NAMED, "explore"):
                yield stage, "--config", f"./{name}.toml"
        yield "pipeline", "--config", f"./{name}.toml"


@pytest.mark.parametrize(("stage", "flag", "file"), list(file_cases()))
def test_files_that_are_not_there_empty_binary_or_folders(
    stage: str, flag: str, file: str, refused: Refused
) -> None:
    model = ["--model=sdlms-small"] if flag in ("--texts", "--tasks") else []
    acts = ["--acts=latest"] if stage == "probe" and flag == "--labels" else []
    refused(stage, *model, *acts, flag, file, "--quiet", names=Path(file).name)


@pytest.mark.parametrize("stage", RUN_MODELS)
@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("sdlms-smal", "Did you mean 'sdlms-small'?"),
        ("./nowhere", "no folder that exists"),
        ("./hollow", "no config.json"),
        ("./no-json", "no-json"),
        ("./encoder", "bert"),
        ("./taken", "taken"),
    ],
)
def test_models_that_cannot_be_used(stage: str, model: str, names: str, refused: Refused) -> None:
    if model == "./encoder" and stage in ("capture", "sae-train"):
        names = "tokenizer"  # of an encoder neurons can be captured; this one lacks a tokenizer
    beside = [word for word in BESIDE.get(stage, []) if not word.startswith("--model")]
    refused(stage, *beside, "--model", model, "--quiet", names=names)


@pytest.mark.parametrize("stage", list(NAMED))
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--label", "a/b"], "--label may hold letters"),
        (["--label", ""], "--label may hold letters"),
        (["--artifacts", "taken"], "taken"),
        (["--artifacts", "taken/below"], "taken"),
    ],
)
def test_where_a_run_cannot_go(
    stage: str, words: list[str], names: str, refused: Refused, study: Study
) -> None:
    refused(stage, *words_beside(stage, "", study), *words, "--quiet", names=names)


@pytest.mark.parametrize(
    ("command", "words", "names"),
    [
        ("runs", "show nowhere", "no run 'nowhere'"),
        ("runs", "show ./hollow", "hollow"),
        ("runs", "show ./taken", "taken"),
        ("runs", "show latest another", "another"),
        ("runs", "verify nowhere", "no run 'nowhere'"),
        ("runs", "remove nowhere", "no run 'nowhere'"),
        ("runs", "remove ./hollow", "hollow"),
        ("runs", "remove ./taken", "taken"),
        ("runs", "remove", "Missing argument"),
        ("runs", "list --artifact x", "Did you mean '--artifacts'?"),
        ("runs", "list --artifacts", "requires an argument"),
        ("runs", "list latest", "latest"),
        ("runs", "lits", "Did you mean 'list'?"),
        ("models", "show sdlms-smal", "Did you mean 'sdlms-small'?"),
        ("models", "show", "Missing argument"),
        ("models", "show ./hollow", "hollow"),
        ("models", "list all", "all"),
        ("models", "shwo x", "Did you mean 'show'?"),
        ("pipeline", "", "--config"),
        ("pipeline", "--config ./none.toml", "none.toml"),
        ("pipeline", "--dry-rum", "Did you mean '--dry-run'?"),
        ("explore", "--host 0.0.0.0", "--token"),
        ("explore", "--model= --port=0", "--model is empty"),
        ("capture", "--model=", "--model is empty"),
        ("dynamic-k", "--model=", "--model is empty"),
        ("logit-lens", "--model=", "--model is empty"),
        ("sae-train", "--model= --arch=topk --k=8", "--model is empty"),
        ("capture", "extra", "extra"),
        ("reprot", "--runs x", "Did you mean 'report'?"),
    ],
)
def test_tools(command: str, words: str, names: str, refused: Refused) -> None:
    refused(command, *words.split(), names=names)


def test_an_input_of_other_runs_stays(refused: Refused, study: Study) -> None:
    refused("runs", "remove", study.runs["capture"].name, names="is an input of")


def test_a_damaged_run_is_told_from_an_undamaged_one(
    cli: Cli,
    broken: Path,
    study: Study,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The study's own runs, of which the damaged ones are copies, were taken by the same flags."""
    monkeypatch.chdir(broken)
    for step in ("capture", "sae-train", "si-modularity", "logit-lens"):
        assert cli("runs", "verify", f"20200101_000000_{step}_cut") == 3
        assert cli("runs", "verify", study.runs[step].name) == 0
    capsys.readouterr()

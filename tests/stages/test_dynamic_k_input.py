"""What dynamic-k refuses: one line, exit code 2, and no run."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.models.kernels import building
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.conftest import save_tiny_model
from tests.stages.gating_runs import MASKED, QUICK, TIMED_ALONE
from tests.stages.probe_runs import Cli, noise, published

Streams = pytest.CaptureFixture[str]
Refused = Callable[..., None]


@pytest.fixture
def refused(refused_command: Refused) -> Refused:
    """Checks that dynamic-k is refused in one line, and leaves nothing."""

    def check(*words: object, message: str) -> None:
        given = TIMED_ALONE if "speed" in words else MASKED
        refused_command("dynamic-k", *given, *words, message=message)

    return check


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep", "0"], "keep must be above 0 and at most 1, got 0.0."),
        (["--keep", "0.5,1.5"], "keep must be above 0 and at most 1, got 1.5."),
        (["--keep", "-0.1"], "keep must be above 0 and at most 1, got -0.1."),
        (["--keep", "nan"], "--keep: expected a number, got 'nan'"),
        (["--keep", "inf"], "--keep: expected a number, got 'inf'"),
        (["--keep", "abc"], "--keep: expected a number, got 'abc'"),
        (["--keep", ""], "--rule and --keep name at least one each"),
        (["--rule", ""], "--rule and --keep name at least one each"),
        (["--rule", "post-nrom"], "there is no rule 'post-nrom'; the rules are post-norm, "),
        (["--rule", "post-nrom"], "Did you mean 'post-norm'?"),
        (["--rule", "post-norm,sheep"], "there is no rule 'sheep'"),
        (["--rule", "blocks"], "--rule blocks keeps communities of neurons: name a run"),
        (["--rule", "blocks-random"], "by --si (make one: sdlms si-modularity)"),
        (
            ["--rule", "threshold", "--calibration-tokens", "0"],
            "--rule threshold learns from text: --calibration-tokens must be at least one window",
        ),
        (
            ["--rule", "blocks", "--si", "any", "--calibration-tokens", "0"],
            "--rule blocks learns from text: --calibration-tokens must be at least one window",
        ),
        (["--calibration-tokens", "-1"], "--calibration-tokens must be >= 0, got -1."),
        (["--seeds", "0"], "--seeds must be >= 1, got 0."),
        (["--rounds", "0"], "--rounds must be >= 1, got 0."),
        (["--max-tokens", "0"], "--max-tokens must be >= 1, got 0."),
        (["--window", "-1"], "--window must be >= 0, got -1."),
        (["--stride", "-1"], "--stride must be >= 0, got -1."),
        (["--batch-tokens", "-1"], "--batch-tokens must be >= 0, got -1."),
        (["--layers", ""], "--layers is empty"),
        (["--layers", "two"], "'two' is neither an index"),
        (["--layers", "none,1"], "'none' is neither an index"),
        (["--keep", "0.5", "--force-sparse-at-one"], "--force-sparse-at-one says what is done at"),
        (
            ["--keep", "1", "--rule", "post-norm,sequence", "--force-sparse-at-one"],
            "--force-sparse-at-one: rule sequence runs prompts as they are",
        ),
        (
            ["--rounds", "7"],
            "--rounds has nothing to do with --measure quality. Leave one of them out.",
        ),
        (["--measure", "speed", "--layers", "1"], "--layers has nothing to do with --measure spee"),
        (["--measure", "speed", "--sae", "any"], "--sae has nothing to do with --measure speed."),
        (
            ["--measure", "speed", "--force-sparse-at-one"],
            "--force-sparse-at-one has nothing to do with --measure speed.",
        ),
        (["--measure", "all"], "--measure: expected one of quality, speed, both, got 'all'"),
        (["--backend", "cuda"], "--backend: expected one of auto, torch, compiled, got 'cuda'"),
        (["--tasks", ""], "--tasks is empty"),
        (["--tasks", "math", "--texts", "x.txt"], "--tasks and --texts exclude each other"),
        (["--field", "body"], "--field body is for --texts FILE.jsonl"),
        (["--seed", "-1"], "--seed must be >= 0, got -1."),
        (["--kep", "0.5"], "No such option: --kep"),
    ],
)
def test_settings_are_checked_before_anything_is_read(
    refused: Refused, words: list[str], message: str
) -> None:
    refused(*words, message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "1"], "--window must be at least 2 and at most the model's context, 512"),
        (["--window", "513"], "--window must be at least 2 and at most the model's context, 512"),
        (["--stride", "65"], "--stride must be from 1 to --window, 64, got 65"),
        (
            ["--rule", "sequence", "--stride", "48"],
            "--rule sequence chooses from the 15 tokens before those that are scored; it takes 16. "
            "Set --stride to at most 47.",
        ),
        (["--rule", "sequence", "--window", "17"], "it takes 16. Set --window to at least 18."),
        (["--calibration-tokens", "63"], "is less than one window of 64 tokens"),
        (["--calibration-tokens", "63", "--rule", "static"], "is less than one window of 64"),
        (["--calibration-tokens", "900000"], "tokens beside the "),
        (["--layers", "3"], "there is no layer 3; the model has layers 0 to 2"),
        (["--tasks", "sheep"], "unknown task 'sheep'"),
        (["--tasks", "heldout,math"], "name one manifest alone"),
        (["--dtype", "float16"], "--dtype float16 is for GPUs. On a CPU choose"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--model", "no-such-model"], "--model no-such-model: the hub cannot be reached"),
        (["--si", "nothing"], "no run 'nothing' under artifacts/"),
        (["--si", "latest"], "no completed 'si-modularity' run under"),
        (["--si", ""], "no run is named"),
        (["--sae", "nothing"], "no run 'nothing' under artifacts/"),
        (["--sae", ""], "no run is named"),
    ],
)
def test_inputs_are_checked_before_a_run_begins(
    refused: Refused, words: list[str], message: str
) -> None:
    refused(*words, message=message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "texts.txt"),
        (" \n\n \n", "texts.txt"),
        ("a road and a river", "fewer than one window of 64. Set a smaller --window"),
        ("sheep on a road " * 90, "its text has 0 tokens beside the 385 of"),
        (None, "texts.txt"),
    ],
)
def test_texts_that_hold_too_little(
    refused: Refused, work: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (work / "texts.txt").write_text(text)
    calibration = ["--calibration-tokens", "0"] if text and len(text) < 99 else []
    refused("--texts", "texts.txt", *calibration, message=message)


def test_an_encoder_predicts_nothing(
    refused: Refused, architecture_model: Callable[[str], Path]
) -> None:
    model = architecture_model("gpt_neox")
    folder = model.parent / "encoder"
    folder.mkdir(exist_ok=True)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"model_type": "bert", "vocab_size": 3072, "intermediate_size": 64, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    refused("--model", folder, message="model_type 'bert' is an encoder")


def test_a_mixture_of_experts_has_no_neurons_to_gate(refused: Refused, work: Path) -> None:
    folder = save_tiny_model(work / "experts", "silu", "mixtral")
    refused("--model", folder, message="mixtral")


def test_a_kernel_that_cannot_be_built(
    refused: Refused, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setenv("SDLMS_CACHE", str(work / "cache"))
    building.kernel.cache_clear()
    message = "--backend compiled: /bin/false failed: exit code 1. Install a compiler"
    refused("--backend", "compiled", "--measure", "speed", message=message)
    refused("--backend", "compiled", "--keep", "1", "--force-sparse-at-one", message=message)


def test_no_compiler_at_all(refused: Refused, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(work))
    monkeypatch.setenv("SDLMS_CACHE", str(work / "cache"))
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda _: None)
    building.kernel.cache_clear()
    message = "no C compiler was found ($CC, cc, gcc, clang, ziglang)"
    refused("--backend", "compiled", "--measure", "speed", message=message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--si", "{control}"], "is of a control (reinit), whose units say nothing of the"),
        (["--si", "{si}", "--model", "sdlms-medium"], "is of the model sdlms-small, not of sdlms"),
        (["--si", "{sae}"], "is a 'sae-train' run; a 'si-modularity' run is needed here"),
        (["--sae", "{sae}", "--model", "sdlms-medium"], "is of the model sdlms-small, not of sdlm"),
        (["--sae", "{si}"], "is a 'si-modularity' run; a 'sae-train' run is needed here"),
        (["--si", "{si}", "--tasks", "math"], "which is not evaluated; these are: math."),
    ],
)
def test_runs_that_say_nothing_of_the_model(
    refused: Refused, given: dict[str, str], words: list[str], message: str
) -> None:
    refused(*[word.format_map(given) for word in words], message=message)


def test_latents_are_no_neurons(refused: Refused, work: Path, given: dict[str, str]) -> None:
    own = dict(Run(work / "artifacts" / given["si"]).start["resolved"])
    options = RunOptions(artifacts=work / "artifacts", label="latents")
    with RunWriter("si-modularity", {"seed": 0}, options) as out:
        out.start({**own, "site": "sae_latents", "kind": "latent"}, {})
        (out.path / "units.csv").write_text("unit\n")
        out.output("units.csv")
    refused("--si", "latest", message="is of latents; rules keep neurons")


def test_communities_that_were_not_looked_for(
    refused: Refused, cli: Cli, work: Path, given: dict[str, str], names: dict[str, str]
) -> None:
    assert cli("si-modularity", "--acts", names["none"], "--no-graph", *QUICK) == 0
    words = ["--rule", "blocks", "--si", "latest"]
    refused(*words, message="was made with --no-graph and has no communities")


@pytest.mark.parametrize(
    ("run", "name"), [("si", "units.csv"), ("sae", "sae.csv"), ("sae", "*.safetensors")]
)
def test_a_damaged_run_is_one_line(
    refused: Refused, work: Path, given: dict[str, str], run: str, name: str
) -> None:
    (path, *_) = sorted((work / "artifacts" / given[run]).rglob(name))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(f"--{run}", given[run], message=path.name)


def test_other_stages_are_not_read(refused: Refused, work: Path) -> None:
    name = published(work, noise(20)).name
    refused("--si", name, message="is a 'capture' run; a 'si-modularity' run is needed here")


def test_a_folder_that_cannot_be_written(cli: Cli, work: Path, capsys: Streams) -> None:
    (work / "a file").write_text("")
    assert cli("dynamic-k", *MASKED, "--artifacts", "a file") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write under a file/" in line
    if os.getuid():  # root may write everywhere
        (work / "locked").mkdir(mode=0o500)
        assert cli("dynamic-k", *MASKED, "--artifacts", "locked") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot write under locked/" in line

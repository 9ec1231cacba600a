"""The settings of studies: each file is read by its command, and says what the design pins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms import cli as command_line
from sdlms.chain import Step
from sdlms.errors import UserError
from sdlms.models.layers import DEFAULT_LAYERS, layers_of
from sdlms.options import dashed, options_of, read_defaults
from sdlms.stages import capture
from sdlms.storage.assets import asset_folder
from sdlms.storage.manifests import read_manifest_lines
from sdlms.storage.tables import read_table
from sdlms.tasks import embedded_manifests
from sdlms.tools import explore
from sdlms.tools.pipeline_file import read_pipeline

CONFIGS = asset_folder("configs")
COMMANDS = (*command_line.STAGES, explore)
STAGES = {dashed(command.__name__.rpartition(".")[2]): command for command in COMMANDS}
PIPELINES = sorted((CONFIGS / "pipeline").glob("*.toml"))
FILES = sorted(
    path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.toml") if path not in PIPELINES
)
PYTHIA = {
    "70m": (6, [2, 3, 5]),
    "410m": (24, [6, 12, 18]),
    "1.4b": (24, [6, 12, 18]),
    "6.9b": (32, [8, 16, 24]),
}


def config_of(path: Path) -> capture.Config:
    """A config file as its stage takes it."""
    stage = STAGES[path.parent.name]
    options = {option.name: option for option in options_of(stage.Config)}
    defaults = read_defaults(CONFIGS / path, options.values())
    config: capture.Config = stage.Config(
        **{name: options[name].value(given) for name, given in defaults.items()}
    )
    return config


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_is_what_its_command_takes(path: Path) -> None:
    config = config_of(path)
    known = embedded_manifests()
    tasks = getattr(config, "tasks", ())  # si-modularity has those of the run that it reads
    assert set(tasks) <= {*known, "python_code", "math", "qa"}


@pytest.mark.parametrize("size", list(PYTHIA))
def test_the_pythia_suite_is_captured_at_the_depths_that_are_pinned(size: str) -> None:
    config = config_of(Path("capture") / f"pythia-{size}.toml")
    n_layers, layers = PYTHIA[size]
    assert config.model == f"EleutherAI/pythia-{size}-deduped"
    assert config.tasks == ("pythia",)
    assert config.layers == DEFAULT_LAYERS
    assert layers_of(config.layers, n_layers) == layers
    text = (CONFIGS / f"capture/pythia-{size}.toml").read_text()
    first, second, third = layers
    assert f"layers {first}, {second} and {third} of {n_layers}" in text
    assert f"--config configs/capture/pythia-{size}.toml" in text


def steps_of(path: Path) -> dict[str, Step]:
    """The steps of a pipeline, by name."""
    steps = read_pipeline(path, {name: stage.Config for name, stage in STAGES.items()})
    return {step.name: step for step in steps}


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_pipeline_asks_all_questions_and_of_all_sizes_the_same(path: Path) -> None:
    steps = steps_of(path)
    chain = ("capture", "sae-train", "sae-latents", "si-modularity", "dynamic-k", "logit-lens")
    assert {step.stage for step in steps.values()} == {*chain, "probe", "scaling", "report"}
    joined = [steps[name] for name in steps["scaling"].reads]
    for stage in ("capture", "si-modularity"):
        own = [step for step in joined if step.stage == stage]
        models = [model_of(step, steps) for step in own]
        assert len(own) == len(set(models)) >= 3
        per_model = ("--model=", "--acts=", "--controls=", "--ablate")
        told = [{a for a in step.arguments if not a.startswith(per_model)} for step in own]
        assert told == [told[0]] * len(told)
    controlled = next(step for step in joined if any("--controls" in a for a in step.arguments))
    read = [steps[name].arguments for name in controlled.reads]
    controls = sorted(a for arguments in read for a in arguments if a.startswith("--control="))
    assert controls == ["--control=permute-tokens", "--control=reinit"]
    assert len({model_of(steps[name], steps) for name in controlled.reads}) == 1


def model_of(step: Step, steps: dict[str, Step]) -> str:
    """The model that a step's capture ran."""
    if step.stage != "capture":
        return model_of(steps[step.reads[0]], steps)
    (model,) = (a for a in step.arguments if a.startswith("--model="))
    return model


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_report_shows_every_step(path: Path) -> None:
    steps = steps_of(path)
    shown, waiting = set(), ["report"]
    while waiting:
        shown.add(name := waiting.pop())
        waiting.extend(steps[name].reads)
    assert shown == set(steps)


def test_the_pythia_pipeline_takes_local_folders_too(
    tmp_path: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = (CONFIGS / "pipeline/pythia.toml").read_text()
    assert text.count("EleutherAI/pythia-") == 7
    (tmp_path / "local.toml").write_text(text.replace("EleutherAI/", "./models of mine/"))
    assert cli("pipeline", "--config", tmp_path / "local.toml", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == text.count("[[step]]")
    assert "'--model=./models of mine/pythia-1.4b-deduped'" in lines[2]


def test_modularity_is_measured_where_the_capture_is() -> None:
    study, taken = (
        read_defaults(CONFIGS / path / "pythia-70m.toml", options_of(STAGES[path].Config))
        for path in ("si-modularity", "capture")
    )
    assert study["layers"] == taken["layers"]
    assert study["site"] in taken["site"]


def test_the_pythia_tasks_are_six_hub_data_sets() -> None:
    lines = list(read_manifest_lines(CONFIGS / "tasks/pythia.jsonl"))
    assert [(line.task, line.value, line.keys["split"]) for line in lines] == [
        ("python_code", "openai/openai_humaneval", "test"),
        ("math", "openai/gsm8k", "test"),
        ("qa", "rajpurkar/squad", "validation"),
        ("prose", "Salesforce/wikitext", "test"),
        ("dialogue", "OpenRL/daily_dialog", "test"),
        ("reasoning", "allenai/ai2_arc", "test"),
    ]


def test_without_a_network_the_first_data_set_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from sdlms.tasks import load_tasks

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError) as error:
        load_tasks(("pythia",), None, "text")
    assert str(error.value).endswith(
        "pythia.jsonl:1: data set openai/openai_humaneval: the hub cannot be reached and the "
        "cache under HF_HOME does not hold it. Run once with a network, or give a local folder."
    )


@pytest.mark.slow
def test_the_demo_recovers_nine_tenths_of_the_cross_entropy_with_32_latents(
    tmp_path: Path, cli: Callable[..., int]
) -> None:
    demo = CONFIGS / "sae-train/demo.toml"
    assert cli("sae-train", "--config", demo, "--artifacts", tmp_path, "--threads", 2) == 0
    (run,) = tmp_path.glob("*_sae-train")
    rows = read_table(run / "sae.csv")
    assert {row["layer"] for row in rows} == {"1", "2", "3"}
    reached = [r for r in rows if float(r["l0"]) <= 32 and float(r["ce_recovered_low"]) >= 0.9]
    assert {row["layer"] for row in reached} == {"1", "2", "3"}
    taken = [row for row in rows if row["selected"] == "1"]
    assert [row["layer"] for row in taken] == ["1", "2", "3"]
    assert all(float(row["fvu"]) < float(row["pca_fvu"]) for row in taken)

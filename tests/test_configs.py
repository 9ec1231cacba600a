"""The settings of studies: each file is read by its stage, and says what the design pins."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms import cli as command_line
from sdlms.errors import UserError
from sdlms.models.layers import DEFAULT_LAYERS, layers_of
from sdlms.options import dashed, options_of, read_defaults
from sdlms.stages import capture
from sdlms.storage.assets import asset_folder
from sdlms.storage.manifests import read_manifest_lines
from sdlms.storage.tables import read_table
from sdlms.tasks import embedded_manifests

CONFIGS = asset_folder("configs")
STAGES = {dashed(stage.__name__.rpartition(".")[2]): stage for stage in command_line.STAGES}
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.toml"))
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
def test_every_file_is_what_its_stage_takes(path: Path) -> None:
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

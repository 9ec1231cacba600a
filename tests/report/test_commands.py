import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sdlms.options import options_of
from sdlms.report.commands import script, typed
from sdlms.report.lineage import lineage_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.stages import logit_lens

# Stands for sdlms: says what it was given, word by word, and then a path.
ECHO = 'sdlms() { printf "%s\\n" "$@" ~~ >> words; echo "/runs/$1"; }\n'


def made(work: Path, stage: str, config: dict[str, Any], *inputs: Run, **resolved: Any) -> Run:
    """A run with these settings."""
    with RunWriter(stage, config, RunOptions(artifacts=work)) as out:
        out.start(resolved, {})
        for run in inputs:
            out.input(run)
    return Run(out.path)


def executed(text: str, folder: Path) -> list[list[str]]:
    """The words of every command of a script, as a shell reads it."""
    shell = ["sh", "-eu", "-c", f"{ECHO}{text}"]
    subprocess.run(shell, cwd=folder, check=True, capture_output=True)
    calls = (folder / "words").read_text().split("~~\n")
    return [call.splitlines() for call in calls[:-1]]


def test_settings_become_flags(tmp_path: Path) -> None:
    config = {"seed": 0, "model": "a model", "revision": None, "save": True, "graph": False}
    config |= {"layers": ["25%", "50%"], "controls": [], "keep": [0.1, 1.0], "lr": 1e-05}
    run = made(tmp_path / "runs", "some-stage", config)
    (words,) = executed(script(lineage_of([run])), tmp_path)
    assert words == [
        *("some-stage", "--seed", "0", "--model", "a model", "--save", "--no-graph"),
        *("--layers", "25%,50%", "--keep", "0.1,1.0", "--lr", "1e-05"),
    ]


def test_runs_become_what_the_earlier_commands_made(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = made(runs, "capture", {"model": "small"})
    second = made(runs, "capture", {"model": "small", "control": "reinit"})
    config = {"acts": "latest", "controls": [str(second.path), "other, $HOME"], "site": "`id`"}
    last = made(runs, "si-modularity", config, first, second, acts=first.name)
    text = script(lineage_of([last]))
    *_, words = executed(text, tmp_path)
    assert words == [
        *("si-modularity", "--acts", "/runs/capture"),
        *("--controls", r"/runs/capture,other\, $HOME", "--site", "`id`"),
    ]
    assert '"${capture_1}"' in text and '"${capture_2},' in text


def test_a_path_in_a_run_begins_with_what_the_earlier_command_made(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    read, beside = (made(runs, stage, {}) for stage in ("sae-train", "logit-lens"))
    member = f"artifacts/{read.name}/sae/$HOME, 1/k_16"
    config = {"sae": [member, "elsewhere"], "lens": f"{beside.path}/tuned_lens/", "acts": "x/y"}
    last = made(runs, "sae-evaluate", config, read)
    text = script(lineage_of([last, beside]))  # that it lies in a run of the report is enough
    *_, words = executed(text, tmp_path)
    assert words == [
        *("sae-evaluate", "--sae", r"/runs/sae-train/sae/$HOME\, 1/k_16,elsewhere"),
        *("--lens", "/runs/logit-lens/tuned_lens", "--acts", "x/y"),
    ]


@pytest.mark.parametrize("name", ["$(touch owned)", "a'b", 'a"b', "x\ny", "; touch owned #", "-x"])
def test_no_setting_can_run_anything(tmp_path: Path, name: str) -> None:
    run = made(tmp_path / "runs", "capture", {"model": name, "texts": f"{name}.txt"})
    run = made(tmp_path / "runs", name, {"acts": [run.name, name]}, run)
    calls = executed(script(lineage_of([run])), tmp_path)
    assert not (tmp_path / "owned").exists()
    assert calls[0][:2] == ["capture", "--model"]
    assert "\n".join(calls[0][2:]) == f"{name}\n--texts\n{name}.txt"


def test_lists_are_read_back_as_they_were(tmp_path: Path) -> None:
    """Words that keep spaces and commas, as the targets of a lens do."""
    (option,) = [each for each in options_of(logit_lens.Config) if each.name == "target"]
    targets = [" Paris", "a,b", "back\\slash", "end\\"]
    run = made(tmp_path / "runs", "logit-lens", {"target": targets})
    ((*_, given),) = executed(script(lineage_of([run])), tmp_path)
    assert option.value(given) == tuple(targets)


def test_what_was_typed_is_shown_without_where_sdlms_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/home/me/sdlms", "capture", "--label", "a b"])
    run = made(tmp_path, "capture", {})
    assert shlex.split(typed(run)) == ["sdlms", "capture", "--label", "a b"]
    assert "/home/me" not in typed(run)

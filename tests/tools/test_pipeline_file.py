"""Every word of a pipeline is checked before its first step runs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from sdlms.chain import Step
from sdlms.cli import NAMED
from sdlms.command import StageConfig
from sdlms.errors import AbsentError, UserError
from sdlms.options import Verbatim
from sdlms.tools.pipeline_file import read_pipeline


@dataclass(frozen=True, kw_only=True)
class Making(StageConfig):
    """A stage with a setting of each kind."""

    model: Annotated[str, "Model."] = "m"
    count: Annotated[int, "How many."] = 1
    rate: Annotated[float, "How fast."] = 0.5
    layers: Annotated[tuple[str, ...], "Which."] = ("25%",)
    words: Annotated[tuple[Verbatim, ...], "Said as they are."] = ()
    mode: Annotated[Literal["fast", "exact"], "How."] = "fast"
    save: Annotated[bool, "Keep it."] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise UserError(f"--count must be >= 1, got {self.count}.")


@dataclass(frozen=True, kw_only=True)
class Reading(StageConfig):
    """A stage that reads runs."""

    acts: Annotated[str, "A run."] = "latest"
    runs: Annotated[tuple[str, ...], "Runs."] = ()
    labels: Annotated[str, "A file."] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and not Path(self.labels).is_file():
            raise AbsentError(f"--labels {self.labels}: no such file.")


CONFIGS = {name: stage.Config for name, stage in NAMED.items()}
STAGES: dict[str, type] = {"make": Making, "read-it": Reading}


def steps_of(tmp_path: Path, text: str) -> list[Step]:
    file = tmp_path / "steps.toml"
    file.write_text(text)
    return read_pipeline(file, STAGES)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(UserError) as error:
        steps_of(tmp_path, text)
    file, _, message = str(error.value).partition(": ")
    assert file == str(tmp_path / "steps.toml")
    assert "\n" not in message
    return message


def test_a_file_of_steps_is_read(tmp_path: Path) -> None:
    text = """
    [common]
    seed = 3
    model = "all have it that know it"
    label = "study"
    [[step]]
    stage = "make"
    name = "first.1"
    count = 2
    rate = 1
    layers = [0, "50%"]
    words = [" the", "a,b"]
    save = false
    model = "its own"
    [[step]]
    stage = "read-it"
    acts = "{first.1}"
    runs = ["{first.1}", "x,{first.1}"]
    """
    first, second = steps_of(tmp_path, text)
    assert first == Step(
        "first.1",
        "make",
        (
            *("--seed=3", "--model=its own", "--label=study", "--count=2", "--rate=1"),
            *("--layers=0,50%", "--words= the,a\\,b", "--no-save"),
        ),
    )
    assert (second.name, second.stage, second.reads) == ("read-it", "read-it", ["first.1"])
    assert second.arguments == (
        *("--seed=3", "--label=study", "--acts={first.1}", "--runs={first.1},x,{first.1}"),
    )


MAKE, READ = '[[step]]\nstage = "make"\n', '[[step]]\nstage = "read-it"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no steps. Write one [[step]] or more, each with a 'stage'."),
        ("step = []", "no steps. Write one [[step]] or more"),
        ("step = 3", "no steps. Write one [[step]] or more"),
        ("step = [3]", "no steps. Write one [[step]] or more"),
        ('[step]\nstage = "make"', "no steps. Write one [[step]] or more"),
        (f"{MAKE}[[steps]]", "unknown key 'steps'. Did you mean 'step'?"),
        (f"seed = 3\n{MAKE}", "unknown key 'seed'. Known: common, step."),
        (f"common = 3\n{MAKE}", "'common' is no table. Write [common], its keys below."),
        ("[[step]]\nseed = 3", "step 1: no 'stage' is named. Known: make, read-it."),
        (f"{MAKE}[[step]]\nstage = 5", "step 2: no 'stage' is named. Known: make, read-it."),
        (f'{MAKE}[[step]]\nstage = "raed-it"', "step 2: there is no stage 'raed-it'. Did you mean"),
        (f"[common]\nsede = 3\n{MAKE}", "common: unknown key 'sede'. Did you mean 'seed'?"),
        (f"{MAKE}cuont = 3", "step make: unknown key 'cuont'. Did you mean 'count'?"),
        (f"{MAKE}nmae = 'a'", "step make: unknown key 'nmae'. Did you mean 'name'?"),
        (f"{MAKE}resume = true", "step make: 'resume' is no setting of a step. All steps share"),
        (f"{MAKE}artifacts = 'x'", "step make: 'artifacts' is no setting of a step."),
        (f"[common]\nreuse = true\n{MAKE}", "common: 'reuse' is no setting of a step."),
        (f"[common]\nseed = 'x'\n{READ}", "step read-it: 'seed': expected an integer, got 'x'."),
        (f"{MAKE}count = 'many'", "step make: 'count': expected an integer, got 'many'."),
        (f"{MAKE}count = 0", "step make: --count must be >= 1, got 0."),
        (f"{MAKE}count = '{{x}}'", "step make: 'count': expected an integer, got '{x}'."),
        (f"{MAKE}mode = 'fats'", "step make: 'mode': expected one of fast, exact, got 'fats'."),
        (f"{MAKE}layers = '1,2'", "step make: 'layers': expected an array, got '1,2'."),
        (f"{MAKE}save = 'no'", "step make: 'save': expected true or false, got 'no'."),
        (f"{MAKE}label = 'a b'", "step make: --label may hold letters"),
        (f"{MAKE}name = 'a b'", "step name 'a b': letters, digits, '.', '_' and '-' only."),
        (f"{MAKE}name = 3", "step name 3: letters, digits"),
        (f"{MAKE}{MAKE}", "two steps are called make. Give each a 'name' of its own."),
        (f"{READ}labels = 'none.csv'", "step read-it: --labels none.csv: no such file."),
        (
            f"{MAKE}{READ}acts = '{{mkae}}'",
            "step read-it reads {mkae}, but there is no such step. D",
        ),
        (
            f"{MAKE}{READ}acts = '{{make'",
            "step read-it: a brace alone in --acts={make. Write {name} for the run of a step, ",
        ),
        (f"{MAKE}words = ['a', ' }}']", "step make: a brace alone in --words=a, }. Write"),
        (f"{READ}acts = '{{}}'\n", "step read-it reads {}, but there is no such step."),
        (f"{READ}acts = '{{make}}'\n{MAKE}", "step read-it reads {make}, which is not done before"),
        (
            f"{READ}acts = '{{read-it}}'",
            "step read-it reads {read-it}, which is not done before it",
        ),
        ("[[step]\n", "not valid TOML: "),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_a_file_that_an_earlier_step_will_write_is_not_asked_for(tmp_path: Path) -> None:
    _, reading = steps_of(tmp_path, f"{MAKE}{READ}labels = '{{make}}/labels.csv'")
    assert reading.command({"make": tmp_path / "1_make"})[-1] == (
        f"--labels={tmp_path}/1_make/labels.csv"
    )


def test_doubled_braces_are_no_reference(tmp_path: Path) -> None:
    (step,) = steps_of(tmp_path, f"{MAKE}words = ['{{{{make}}}}']")
    assert step.reads == []
    assert step.command({})[-1] == "--words={make}"


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--config .*none\.toml: No such file"):
        read_pipeline(tmp_path / "none.toml", STAGES)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            'stage = "sae-train"\nacts = "{capture}"\nmodel = "sdlms-small"',
            "step sae-train: --acts is trained on alone: leave out",
        ),
        (
            'stage = "logit-lens"\ntuned = true\ntuned_lens = "{capture}"',
            "step logit-lens: --tuned trains a lens and --tuned-lens {capture} reads one.",
        ),
        (
            'stage = "probe"\nlabels = "none.csv"\nacts = "{capture}"',
            "step probe: --labels none.csv: neither 'task' nor a file that exists.",
        ),
    ],
)
def test_conflicts_of_settings_are_found_without_the_runs_that_are_named(
    tmp_path: Path, step: str, message: str
) -> None:
    file = tmp_path / "steps.toml"
    file.write_text(f'[[step]]\nstage = "capture"\n[[step]]\n{step}\n')
    with pytest.raises(UserError, match=re.escape(f"{file}: {message}")):
        read_pipeline(file, CONFIGS)


def test_labels_that_an_earlier_step_will_write_are_not_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "steps.toml"
    file.write_text(
        '[[step]]\nstage = "capture"\n'
        '[[step]]\nstage = "probe"\nacts = "{capture}"\nlabels = "{capture}/labels.csv"\n'
    )
    assert [step.stage for step in read_pipeline(file, CONFIGS)] == ["capture", "probe"]

"""A TOML file of steps, checked as a whole before the first of them runs.

```
[common]                     # what every step has that knows the setting
threads = 2
[[step]]
stage = "capture"            # its name too, where no other is given
model = "sdlms-small"
[[step]]
name = "structure"
stage = "si-modularity"
acts = "{capture}"           # the run of an earlier step
```
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sdlms.chain import REFERENCE, Step
from sdlms.errors import AbsentError, UserError, did_you_mean
from sdlms.options import Option, options_of, read_toml
from sdlms.runs.writing import RunOptions

COMMON, STEP = "common", "step"
OF_A_STEP = ("stage", "name")
LABEL = "label"  # of the options about runs, the one that a step has; the others are the pipeline's
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True)
class _Stage:
    """What a stage can be told."""

    config: type
    options: dict[str, Option]


def read_pipeline(path: Path, configs: Mapping[str, type]) -> list[Step]:
    """The steps of a file.

    Args:
        path: the TOML file.
        configs: the settings of every stage, by its name.

    Raises:
        UserError: the file cannot be read, or a word of it is wrong: a key, a value, a stage, the
            name of a step.
    """
    content = read_toml(path)
    for key in content:
        if key not in (COMMON, STEP):
            raise UserError(f"{path}: unknown key '{key}'.{did_you_mean(key, (COMMON, STEP))}")
    tables = content.get(STEP, [])
    if not _is_list_of_tables(tables):
        raise UserError(f"{path}: no steps. Write one [[step]] or more, each with a 'stage'.")
    if not isinstance(common := content.get(COMMON, {}), dict):
        raise UserError(f"{path}: '{COMMON}' is no table. Write [{COMMON}], its keys below.")
    stages = {name: _stage(config) for name, config in configs.items()}
    chosen = [_stage_of(f"{path}: step {n}", table, stages) for n, table in enumerate(tables, 1)]
    _check_common(f"{path}: {COMMON}", common, [stages[name] for name in chosen])
    steps: list[Step] = []
    for name, table in zip(chosen, tables, strict=True):
        steps.append(_step(path, name, table, common, stages[name]))
    _check_names(path, steps)
    return steps


def _is_list_of_tables(value: Any) -> bool:
    """Whether TOML had `[[step]]`."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _stage(config: type) -> _Stage:
    """A stage's options, its run's label among them."""
    own = {option.name: option for option in options_of(config)}
    (label,) = (option for option in options_of(RunOptions) if option.name == LABEL)
    return _Stage(config, {**own, LABEL: label})


def _stage_of(where: str, table: Mapping[str, Any], known: Collection[str]) -> str:
    """The stage that a step names."""
    if not isinstance(stage := table.get("stage"), str):
        raise UserError(f"{where}: no 'stage' is named. Known: {', '.join(known)}.")
    if stage not in known:
        raise UserError(f"{where}: there is no stage '{stage}'.{did_you_mean(stage, known)}")
    return stage


def _check_common(where: str, common: Mapping[str, Any], stages: Sequence[_Stage]) -> None:
    """Every common setting is one of some step."""
    known = {name for stage in stages for name in stage.options}
    for key in common:
        if key not in known:
            _refuse_key(where, key, sorted(known))


def _refuse_key(where: str, key: str, known: Collection[str]) -> None:
    """Say what is wrong with a key."""
    if key in (field.name for field in fields(RunOptions)):
        raise UserError(
            f"{where}: '{key}' is no setting of a step. All steps share --artifacts, and are "
            "reused and resumed where they can be."
        )
    raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)}")


def _step(
    path: Path, stage: str, table: Mapping[str, Any], common: Mapping[str, Any], known: _Stage
) -> Step:
    """One step, its settings checked as far as they can be without what it reads."""
    name = table.get("name", stage)
    if not (isinstance(name, str) and re.fullmatch(NAME, name)):
        raise UserError(f"{path}: step name {name!r}: letters, digits, '.', '_' and '-' only.")
    where = f"{path}: step {name}"
    own = {key: value for key, value in table.items() if key not in OF_A_STEP}
    for key in own:
        if key not in known.options:
            _refuse_key(where, key, [*OF_A_STEP, *known.options])
    shared = {key: value for key, value in common.items() if key in known.options}
    given = {
        key: known.options[key].default_from_toml(where, value)
        for key, value in {**shared, **own}.items()
    }
    arguments = [_argument(known.options[key], value) for key, value in given.items()]
    step = Step(name, stage, tuple(word for word in arguments if word))
    _check_braces(where, step.arguments)
    _check_settings(where, step, given, known)
    return step


def _argument(option: Option, value: str | bool | None) -> str:
    """A setting as one word of the command line; empty where it is left out."""
    if option.is_switch:
        return option.flag if value else f"--no-{option.flag.removeprefix('--')}"
    return "" if value is None else f"{option.flag}={value}"


def _check_braces(where: str, words: Sequence[str]) -> None:
    """Every brace is one of a step's name, or doubled."""
    for word in words:
        if re.search("[{}]", REFERENCE.sub("", word)):
            raise UserError(
                f"{where}: a brace alone in {word}. Write {{name}} for the run of a step, "
                "{{ or }} for a brace itself."
            )


def _check_settings(where: str, step: Step, given: Mapping[str, Any], known: _Stage) -> None:
    """Have the stage check its settings, the names of runs being still those of steps."""
    values = {name: known.options[name].value(value) for name, value in given.items()}
    label = values.pop(LABEL, None)
    try:
        RunOptions(label=label)
        known.config(**values)
    except UserError as error:
        named = any(f"{{{name}}}" in str(error) for name in step.reads)
        # A file that an earlier step will have written cannot be there yet.
        if not (named and isinstance(error, AbsentError)):
            raise UserError(f"{where}: {error}") from None


def _check_names(path: Path, steps: Sequence[Step]) -> None:
    """Names are unique, and a step reads earlier ones only."""
    names = [step.name for step in steps]
    for index, step in enumerate(steps):
        earlier = names[:index]
        if step.name in earlier:
            raise UserError(
                f"{path}: two steps are called {step.name}. Give each a 'name' of its own."
            )
        for name in step.reads:
            if name in names[index:]:
                raise UserError(
                    f"{path}: step {step.name} reads {{{name}}}, which is not done before it. Put "
                    f"step {name} first."
                )
            if name not in earlier:
                raise UserError(
                    f"{path}: step {step.name} reads {{{name}}}, but there is no such step."
                    f"{did_you_mean(name, earlier)}"
                )

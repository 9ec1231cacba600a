"""Turn a stage's `Config` dataclass into a command.

What an option is, is said in `sdlms/options.py`; here Typer is told. This is the only
metaprogramming in the tree. Where a value comes from, weakest first: the dataclass, the
environment, the `--config` file, the flag.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sdlms.errors import UserError
from sdlms.options import (
    ENVIRONMENT,
    SECRETS,
    Option,
    as_json,
    defaults_from_environment,
    options_of,
    read_defaults,
)
from sdlms.progress import LOGGER, set_up_logging
from sdlms.runs.folder import run_name
from sdlms.runs.writing import RunOptions, RunWriter


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings that every stage has."""

    seed: Annotated[int, "Seed of everything random."] = 0

    def __post_init__(self) -> None:
        """Check what every generator of random numbers takes."""
        if self.seed < 0:
            raise UserError(f"--seed must be >= 0, got {self.seed}.")
        if self.seed >= 2**64:  # torch takes none
            raise UserError(f"--seed must be below 2**64, got {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig(StageConfig):
    """Settings of every stage that computes tensors, in float32 alone if nothing else is said."""

    device: Annotated[str, "auto, cpu, cuda, cuda:N or mps."] = "auto"
    threads: Annotated[int, "CPU threads; 0 takes all cores."] = 0

    def __post_init__(self) -> None:
        """Check what can be checked without torch."""
        super().__post_init__()
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", self.device):
            raise UserError(
                f"--device '{self.device}' is none of auto, cpu, cuda, cuda:N (N a number), mps."
            )
        if self.threads < 0:
            raise UserError(f"--threads must be 0 (all cores) or more, got {self.threads}.")
        if self.threads > (most := max(64, 4 * (os.cpu_count() or 1))):  # too many end the process
            raise UserError(
                f"--threads must be at most {most} on this machine, got {self.threads}."
            )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(DeviceConfig):
    """Settings of every stage that runs a model."""

    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "Type to compute in; auto is bfloat16 where the device has it in hardware.",
    ] = "auto"


def parameter_of(option: Option) -> inspect.Parameter:
    """The parameter from which Typer makes the flag; all but switches are text to Typer.

    Typer reads no environment variable: it would have it win over the `--config` file.
    """
    variable = ENVIRONMENT.get(option.name)
    text = f"{option.help} [env: {variable}]" if variable else option.help
    if option.is_switch:
        # Typer adds a --no- form to a switch; --no-resume would be an option without a user.
        flags = (option.flag,) if option.name in ("resume", "reuse") else ()
        return _keyword(option.name, option.default, bool, typer.Option(*flags, help=text))
    is_shown = option.name not in SECRETS
    flag = typer.Option(option.flag, help=text, metavar=option.metavar, show_default=is_shown)
    return _keyword(option.name, option.text(option.default), str | None, flag)


def _keyword(name: str, default: Any, kind: Any, option: Any) -> inspect.Parameter:
    """A keyword-only parameter."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option])


def add_stage(
    app: typer.Typer, name: str, config_class: type, run: Callable[[Any, RunWriter], None]
) -> None:
    """Add one stage to the command line; its module's docstring is the help."""
    own, common = options_of(config_class), options_of(RunOptions)

    def carry_out(values: dict[str, Any]) -> None:
        config = config_class(**{option.name: values[option.name] for option in own})
        options = RunOptions(**{option.name: values[option.name] for option in common})
        path = execute(name, config, options, run)
        typer.echo(os.fsencode(path))  # as bytes: the name of a folder need not be UTF-8

    add_command(app, name, sys.modules[config_class.__module__].__doc__, [*own, *common], carry_out)


def add_command(
    app: typer.Typer,
    name: str,
    text: str | None,
    options: Sequence[Option],
    carry_out: Callable[[dict[str, Any]], None],
) -> None:
    """Add a command with `options`, a `--config` file of their defaults, `-v` and `-q`.

    Args:
        app: gets the command.
        name: of the command.
        text: its help; the first line is what lists of commands show.
        options: its own.
        carry_out: takes their values by name.
    """

    def load_config(context: typer.Context, path: Path | None) -> Path | None:
        file = {} if path is None else read_defaults(path, options)
        context.default_map = {**defaults_from_environment(), **file}
        return path

    def command(**given: Any) -> None:
        set_up_logging(verbose=given["verbose"], quiet=given["quiet"])
        carry_out({option.name: option.value(given[option.name]) for option in options})

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*map(parameter_of, options), *_talk_parameters(load_config)]
    )
    text = inspect.cleandoc(text or "")
    app.command(name, help=text, short_help=text.partition("\n")[0])(command)


def _talk_parameters(load_config: Callable[..., Any]) -> list[inspect.Parameter]:
    """The flags that are no settings of a run: where defaults come from, how much is said."""
    config = typer.Option(
        help="TOML file with defaults for these options (keys with underscores); flags win.",
        callback=load_config,
        is_eager=True,
    )
    verbose = typer.Option("--verbose", "-v", help="Log details too.")
    quiet = typer.Option("--quiet", "-q", help="Log warnings only; show no progress.")
    return [
        _keyword("config", None, Path | None, config),
        _keyword("verbose", False, bool, verbose),
        _keyword("quiet", False, bool, quiet),
    ]


def execute(
    name: str, config: Any, options: RunOptions, run: Callable[[Any, RunWriter], None]
) -> Path:
    """Run a stage and return the path of the finished run; an interrupt exits with 130."""
    out = RunWriter(name, as_json(config), options)
    try:
        with out:
            run(config, out)
    except UserError:
        if out.started:
            name = run_name(out.path)
            LOGGER.warning(
                f"{name} is unfinished: --resume continues it, sdlms runs remove {name} deletes it"
            )
        raise
    except KeyboardInterrupt:
        hint = "; the same command with --resume continues here" if out.started else ""
        LOGGER.warning("interrupted%s", hint)
        raise typer.Exit(130) from None
    return out.path

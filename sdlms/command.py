"""Turn a stage's `Config` dataclass into a command: options, TOML defaults, suggestions.

One dataclass field is the flag, the TOML key and the key in `meta.jsonl`. This is the only
metaprogramming in the tree.
"""

import inspect
import re
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from sdlms.errors import UserError, did_you_mean
from sdlms.progress import LOGGER, set_up_logging
from sdlms.run_writer import RunOptions, RunWriter

ARTIFACTS_VARIABLE = "SDLMS_ARTIFACTS"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings that every stage has."""

    seed: Annotated[int, "Seed of everything random."] = 0


@dataclass(frozen=True, kw_only=True)
class ComputeConfig(StageConfig):
    """Settings of every stage that computes tensors."""

    device: Annotated[str, "auto, cpu, cuda, cuda:N or mps."] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        "Type to compute in; auto is bfloat16 where the device has it in hardware.",
    ] = "auto"
    threads: Annotated[int, "CPU threads; 0 takes all cores."] = 0

    def __post_init__(self) -> None:
        """Check what can be checked without torch."""
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UserError(
                f"--device '{self.device}' is none of auto, cpu, cuda, cuda:N (N a number), mps."
            )
        if self.threads < 0:
            raise UserError(f"--threads must be 0 (all cores) or more, got {self.threads}.")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One dataclass field, read."""

    name: str
    help: str
    default: Any
    kind: Any  # the type without Annotated and None; tuple[T, ...] for lists
    optional: bool

    @property
    def element(self) -> Any:
        """The type of a list's elements; None where the option is no list."""
        return get_args(self.kind)[0] if get_origin(self.kind) is tuple else None

    def parameter(self) -> inspect.Parameter:
        """The parameter from which Typer makes the flag; lists are comma-separated text."""
        kind: Any = str if self.element else self.kind
        default = self.default
        if self.element and default is not None:
            default = ",".join(str(item) for item in default)
        flags = ("--resume",) if self.name == "resume" else ()
        variable = ARTIFACTS_VARIABLE if self.name == "artifacts" else None
        option = typer.Option(*flags, help=self.help, envvar=variable)
        kind = kind | None if self.optional else kind
        return _keyword(self.name, default, Annotated[kind, option])

    def value(self, given: Any) -> Any:
        """What the dataclass takes, from what the flag gave."""
        if self.element is None or given is None:
            return given
        words = [word.strip() for word in str(given).split(",")]
        try:
            return tuple(self.element(word) for word in words if word)
        except ValueError:
            kind = self.element.__name__
            raise UserError(
                f"--{dashed(self.name)}: expected comma-separated {kind} values, got '{given}'."
            ) from None

    def default_from_toml(self, where: str, value: Any) -> Any:
        """Check a TOML value's type; lists become what the flag would be given."""
        if self.element is not None:
            if not isinstance(value, list):
                raise UserError(f"{where}: '{self.name}' must be an array, got {value!r}.")
            return ",".join(str(item) for item in value)
        expected: Any = {Path: str, float: (int, float)}.get(self.kind, self.kind)
        if get_origin(self.kind) is not None:
            expected = type(get_args(self.kind)[0])
        if not isinstance(value, expected) or isinstance(value, bool) != (self.kind is bool):
            kind = "string" if expected is str else getattr(self.kind, "__name__", "number")
            raise UserError(f"{where}: '{self.name}' must be a {kind}, got {value!r}.")
        return value


def dashed(name: str) -> str:
    """A field's name as a flag or a module's name as a stage."""
    return name.replace("_", "-")


def _keyword(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """A keyword-only parameter."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def options_of(config_class: type) -> list[Option]:
    """A dataclass' fields as options; its own fields before the inherited ones."""
    hints = get_type_hints(config_class, include_extras=True)
    own = inspect.get_annotations(config_class)
    ordered = sorted(fields(config_class), key=lambda field: field.name not in own)
    return [_option(field, hints[field.name]) for field in ordered]


def _option(field: Field[Any], hint: Any) -> Option:
    """One field: `name: Annotated[type, "help"] = default`."""
    kind, text = get_args(hint)
    optional = get_origin(kind) in (Union, UnionType)
    if optional:
        (kind,) = (arm for arm in get_args(kind) if arm is not NoneType)
    if field.default is MISSING:
        raise ValueError(f"{field.name} needs a default")
    return Option(name=field.name, help=text, default=field.default, kind=kind, optional=optional)


def read_defaults(path: Path, options: list[Option]) -> dict[str, Any]:
    """A TOML file's keys as defaults of the options.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value has the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from None
    known = {option.name: option for option in options}
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'.{did_you_mean(key, list(known))}")
    return {key: known[key].default_from_toml(str(path), value) for key, value in content.items()}


def add_stage(
    app: typer.Typer, name: str, config_class: type, run: Callable[[Any, RunWriter], None]
) -> None:
    """Add one stage to the command line."""
    own, common = options_of(config_class), options_of(RunOptions)
    everything = [*own, *common]

    def load_config(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            context.default_map = read_defaults(path, everything)
        return path

    def command(**given: Any) -> None:
        set_up_logging(verbose=given.pop("verbose"), quiet=given.pop("quiet"))
        given.pop("config")
        values = {option.name: option.value(given[option.name]) for option in everything}
        config = config_class(**{option.name: values[option.name] for option in own})
        options = RunOptions(**{option.name: values[option.name] for option in common})
        typer.echo(execute(name, config, options, run))

    config_option = typer.Option(
        help="TOML file with defaults for these options.", callback=load_config, is_eager=True
    )
    extra = [
        _keyword("config", None, Annotated[Path | None, config_option]),
        _keyword("verbose", False, Annotated[bool, typer.Option("--verbose", "-v")]),
        _keyword("quiet", False, Annotated[bool, typer.Option("--quiet", "-q")]),
    ]
    parameters = [*(option.parameter() for option in everything), *extra]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__doc__ = inspect.getmodule(run).__doc__
    app.command(name)(command)


def execute(
    name: str, config: Any, options: RunOptions, run: Callable[[Any, RunWriter], None]
) -> Path:
    """Run a stage and return the path of the finished run; an interrupt exits with 130."""
    try:
        with RunWriter(name, as_json(config), options) as out:
            run(config, out)
    except KeyboardInterrupt:
        LOGGER.warning("interrupted; the same command with --resume continues here")
        raise typer.Exit(130) from None
    return out.path


def as_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON values, in field order."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {
        name: list(value)
        if isinstance(value, tuple)
        else str(value)
        if isinstance(value, Path)
        else value
        for name, value in values.items()
    }

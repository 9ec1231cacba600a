"""The fields of a settings dataclass as options: how each is written, read and checked.

One dataclass field is the flag, the TOML key and the key in `meta.jsonl`. Flags, TOML values and
environment variables all become text first, so that one rule parses them.
"""

import inspect
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, NewType, Union, get_args, get_origin, get_type_hints

from sdlms.errors import UserError, did_you_mean

ENVIRONMENT = {"artifacts": "SDLMS_ARTIFACTS", "token": "SDLMS_TOKEN"}
SECRETS = ("token",)  # the help shows no default of theirs
# A string of a list that keeps the spaces around it. On the line a backslash before a comma makes
# it part of the string, and so one before a backslash; TOML arrays need neither.
Verbatim = NewType("Verbatim", str)


class Kind(NamedTuple):
    """How values of one type are written.

    Attributes:
        metavar: stands for the value in the help.
        words: names the type in messages.
        toml: the TOML types that are taken.
        parse: from text; ValueError where the text is no such value.
    """

    metavar: str
    words: str
    toml: tuple[type, ...]
    parse: Callable[[str], Any]


def _path(text: str) -> Path:
    """A path, `~` expanded; pathlib would take an empty text for the current folder."""
    if not text:
        raise ValueError("empty path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("no such home folder") from None


def _finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


KINDS: dict[Any, Kind] = {
    str: Kind("text", "a string", (str,), str),
    Verbatim: Kind("text", "a string", (str,), str),
    int: Kind("int", "an integer", (int,), int),
    float: Kind("float", "a number", (int, float), _finite),
    Path: Kind("path", "a path", (str,), _path),
}


def kind_of(annotation: Any) -> Kind:
    """The entry of a type; a `Literal` takes its choices only."""
    if get_origin(annotation) is not Literal:
        return KINDS[annotation]
    choices = get_args(annotation)
    words = f"one of {', '.join(choices)}"
    return Kind("|".join(choices), words, (str,), lambda text: choices[choices.index(text)])


@dataclass(frozen=True, kw_only=True)
class Option:
    """One dataclass field, read."""

    name: str
    help: str
    default: Any
    kind: Any  # the type without Annotated and None; tuple[T, ...] for lists

    @property
    def flag(self) -> str:
        """The option as it is written on the command line."""
        return f"--{dashed(self.name)}"

    @property
    def is_switch(self) -> bool:
        """Whether the option is on or off and takes no value."""
        return self.kind is bool

    @property
    def is_list(self) -> bool:
        """Whether values are comma-separated on the line and an array in TOML."""
        return get_origin(self.kind) is tuple

    @property
    def element(self) -> Any:
        """The type of one value."""
        return get_args(self.kind)[0] if self.is_list else self.kind

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        word = kind_of(self.element).metavar
        if not self.is_list:
            return f"<{word}>"
        return "<a,b,...>" if self.element is str else f"<{word},{word},...>"

    def text(self, value: Any) -> str | None:
        """A value as it is written behind its flag; None where the flag is left out.

        That is so for no value, and for no verbatim string: an empty text would be an empty string.
        """
        if value is None or (self.element is Verbatim and not value):
            return None
        if not self.is_list:
            return str(value)
        escaped = self.element is Verbatim
        return ",".join(_escaped(item) if escaped else str(item) for item in value)

    def value(self, given: Any) -> Any:
        """What the dataclass takes, from what the flag gave.

        Raises:
            UserError: the text is no value of this option's type.
        """
        if given is None and self.element is Verbatim:
            return ()
        if given is None or self.is_switch:
            return given
        return self._parsed(given, self.flag)

    def _parsed(self, text: str, where: str) -> Any:
        """The typed value; `where` opens the message when there is none."""
        if not self.is_list:
            return self._element(text, where)
        if self.element is Verbatim:
            words = _unescaped(text)
            if "" in words:
                raise UserError(
                    f"{where} {text!r}: a word is empty. Leave it out; '\\,' is a comma."
                )
            return tuple(words)
        if not text.strip():  # an empty array of the file
            return ()
        words = [word.strip() for word in text.strip().removesuffix(",").split(",")]
        if "" in words:  # as where a variable of the shell is not set
            raise UserError(f"{where} {text!r}: a word is empty. Leave it out.")
        return tuple(self._element(word, where) for word in words)

    def _element(self, text: str, where: str) -> Any:
        """One typed value."""
        kind = kind_of(self.element)
        try:
            return kind.parse(text)
        except ValueError:
            raise UserError(f"{where}: expected {kind.words}, got '{text}'.") from None

    def default_from_toml(self, where: str, value: Any) -> Any:
        """Check a TOML value; it becomes what the flag would be given.

        Raises:
            UserError: the value has the wrong type, or is no value of this option.
        """
        where = f"{where}: '{self.name}'"
        if self.is_switch:
            if not isinstance(value, bool):
                raise UserError(f"{where}: expected true or false, got {value!r}.")
            return value
        if self.is_list and not isinstance(value, list):
            raise UserError(f"{where}: expected an array, got {value!r}.")
        kind = kind_of(self.element)
        # Arrays of words may hold bare numbers: layers = [0, 2, "75%"].
        types = (str, int) if self.is_list and self.element is str else kind.toml
        for item in value if self.is_list else [value]:
            if not isinstance(item, types) or isinstance(item, bool):
                raise UserError(f"{where}: expected {kind.words}, got {item!r}.")
        text = self.text(value)
        if text is not None:
            self._parsed(text, where)
        return text


def _escaped(word: str) -> str:
    """A word of a list as it is written on the line, so that `_unescaped` finds it again."""
    return word.replace("\\", "\\\\").replace(",", "\\,")


def _unescaped(text: str) -> list[str]:
    """The words between the commas that have no backslash before them; nothing is stripped."""
    words = [""]
    for piece in re.findall(r"\\[\\,]|.", text, re.DOTALL):
        if piece == ",":
            words.append("")
        else:
            words[-1] += piece[1:] if piece in ("\\\\", "\\,") else piece
    return words


def dashed(name: str) -> str:
    """A field's name as a flag or a module's name as a stage."""
    return name.replace("_", "-")


def options_of(config_class: type) -> list[Option]:
    """A dataclass' fields as options; its own fields before the inherited ones."""
    hints = get_type_hints(config_class, include_extras=True)
    own = inspect.get_annotations(config_class)
    ordered = sorted(fields(config_class), key=lambda field: field.name not in own)
    return [_option(field, hints[field.name]) for field in ordered]


def _option(field: Field[Any], hint: Any) -> Option:
    """One field: `name: Annotated[type, "help"] = default`."""
    kind, text = get_args(hint)
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (arm for arm in get_args(kind) if arm is not NoneType)
    if field.default is MISSING:
        raise ValueError(f"{field.name} needs a default")
    return Option(name=field.name, help=text, default=field.default, kind=kind)


def defaults_from_environment() -> dict[str, str]:
    """Defaults that environment variables give; an empty variable gives none."""
    found = {name: os.environ.get(variable, "") for name, variable in ENVIRONMENT.items()}
    return {name: value for name, value in found.items() if value}


def read_toml(path: Path) -> dict[str, Any]:
    """What the TOML file of `--config` holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; is this a binary file?") from None
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"{path}: not valid TOML: {error}.") from None


def read_defaults(path: Path, options: Iterable[Option]) -> dict[str, Any]:
    """A TOML file's keys as defaults of the options.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value has the wrong type.
    """
    content = read_toml(path)
    known = {option.name: option for option in options}
    for key, value in content.items():
        if key not in known:
            hint = did_you_mean(key, known)
            if isinstance(value, dict):
                hint = " Tables are not read here: write the keys at the top of the file."
            raise UserError(f"{path}: unknown key '{key}'.{hint}")
    return {key: known[key].default_from_toml(str(path), value) for key, value in content.items()}


def as_json(config: Any) -> dict[str, Any]:
    """A settings dataclass as JSON values, in field order."""
    return {field.name: _json_value(getattr(config, field.name)) for field in fields(config)}


def _json_value(value: Any) -> Any:
    """A setting as JSON: lists for tuples, text for paths."""
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value

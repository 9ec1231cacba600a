"""Dataclass fields as options: every source of a value gives the same value."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.options import (
    ENVIRONMENT,
    Option,
    Verbatim,
    as_json,
    defaults_from_environment,
    options_of,
    read_defaults,
)
from sdlms.runs.writing import RunOptions
from sdlms.stages import capture


@dataclass(frozen=True, kw_only=True)
class Inherited:
    seed: Annotated[int, "Seed."] = 0


@dataclass(frozen=True, kw_only=True)
class Config(Inherited):
    """One field of every kind."""

    name: Annotated[str, "Name."] = "a"
    word: Annotated[str | None, "Word."] = None
    folder: Annotated[Path | None, "Folder."] = None
    scale: Annotated[float, "Scale."] = 0.5
    mode: Annotated[Literal["fast", "exact"], "Mode."] = "fast"
    save: Annotated[bool, "Save."] = True
    layers: Annotated[tuple[str, ...], "Layers."] = ("25%",)
    sizes: Annotated[tuple[int, ...], "Sizes."] = ()
    rates: Annotated[tuple[float, ...], "Rates."] = (0.1,)
    targets: Annotated[tuple[Verbatim, ...], "Targets."] = ()


OPTIONS = {option.name: option for option in options_of(Config)}
words = st.text(st.characters(exclude_characters=",", exclude_categories=["C", "Z"]), min_size=1)
finite = st.floats(allow_nan=False, allow_infinity=False)
configs = st.builds(
    Config,
    seed=st.integers(),
    name=st.text(),
    word=st.none() | words,
    folder=st.none() | words.filter(lambda text: not text.startswith("~")).map(Path),
    scale=finite,
    mode=st.sampled_from(["fast", "exact"]),
    save=st.booleans(),
    layers=st.lists(words).map(tuple),
    sizes=st.lists(st.integers()).map(tuple),
    rates=st.lists(finite).map(tuple),
    targets=st.lists(st.text(min_size=1)).map(tuple),
)


def from_texts(texts: dict[str, Any]) -> Config:
    return Config(**{name: OPTIONS[name].value(text) for name, text in texts.items()})


@given(configs)
def test_flags_round_trip(config: Config) -> None:
    texts = {}
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        texts[name] = value if value is None or option.is_switch else option.text(value)
    assert from_texts(texts) == config


def toml(values: dict[str, Any]) -> str:
    """JSON's values are TOML's, but for null and escapes of surrogate pairs."""
    lines = (f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in values.items())
    return "".join(f"{line}\n" for line in lines).replace("\x7f", "\\u007f")


@given(configs)
def test_the_keys_and_values_of_meta_jsonl_are_a_config_file(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    recorded = {name: value for name, value in as_json(config).items() if value is not None}
    path.write_bytes(toml(recorded).encode())
    assert tomllib.loads(path.read_bytes().decode()) == recorded
    assert from_texts(read_defaults(path, OPTIONS.values())) == config


@pytest.mark.parametrize("config_class", [Config, capture.Config, RunOptions])
def test_defaults_survive_being_text(config_class: type) -> None:
    for option in options_of(config_class):
        if option.default is not None and not option.is_switch:
            assert option.value(option.text(option.default)) == option.default


def test_own_fields_come_before_inherited_ones() -> None:
    assert list(OPTIONS)[-1] == "seed"
    assert as_json(Config())["seed"] == 0


def test_a_field_without_default_is_our_bug() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Incomplete:
        name: Annotated[str, "Name."]

    with pytest.raises(ValueError, match="name needs a default"):
        options_of(Incomplete)


@pytest.mark.parametrize(
    ("name", "metavar"),
    [
        ("name", "<text>"),
        ("seed", "<int>"),
        ("scale", "<float>"),
        ("folder", "<path>"),
        ("mode", "<fast|exact>"),
        ("layers", "<a,b,...>"),
        ("sizes", "<int,int,...>"),
        ("rates", "<float,float,...>"),
        ("targets", "<text,text,...>"),
    ],
)
def test_the_help_shows_what_a_value_looks_like(name: str, metavar: str) -> None:
    assert OPTIONS[name].metavar == metavar


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (" Paris", (" Paris",)),
        (" Paris, Rome,\n", (" Paris", " Rome", "\n")),
        (" ", (" ",)),
        (r"\,", (",",)),
        (r"a\,b,c", ("a,b", "c")),
        (r"\\,\n", ("\\", r"\n")),
    ],
)
def test_verbatim_strings_keep_their_spaces(text: str, values: tuple[str, ...]) -> None:
    assert OPTIONS["targets"].value(text) == values
    assert OPTIONS["targets"].value(OPTIONS["targets"].text(values)) == values


def test_no_verbatim_strings_are_told_from_an_empty_one(tmp_path: Path) -> None:
    targets = OPTIONS["targets"]
    assert targets.value(targets.text(())) == ()
    path = tmp_path / "a.toml"
    path.write_text("targets = []\n")
    assert read_defaults(path, OPTIONS.values()) == {"targets": None}
    for text in ("", "a,,b", ",a", "a,", ","):
        with pytest.raises(UserError, match=f"^--targets '{text}': a word is empty"):
            targets.value(text)
    path.write_text('targets = ["a", "", "b"]\n')
    with pytest.raises(UserError, match="'targets' 'a,,b': a word is empty"):
        read_defaults(path, OPTIONS.values())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("seed", "x", "--seed: expected an integer, got 'x'."),
        ("seed", "1.5", "--seed: expected an integer, got '1.5'."),
        ("seed", "", "--seed: expected an integer, got ''."),
        ("seed", "9" * 5000, "--seed: expected an integer"),
        ("scale", "x", "--scale: expected a number, got 'x'."),
        ("scale", "nan", "--scale: expected a number, got 'nan'."),
        ("scale", "inf", "--scale: expected a number, got 'inf'."),
        ("mode", "Fast", "--mode: expected one of fast, exact, got 'Fast'."),
        ("folder", "", "--folder: expected a path, got ''."),
        ("folder", "~nobody-here/x", "--folder: expected a path"),
        ("sizes", "1,x", "--sizes: expected an integer, got 'x'."),
        ("rates", "0.1,nan", "--rates: expected a number, got 'nan'."),
    ],
)
def test_a_bad_flag_names_itself_the_rule_and_the_value(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        OPTIONS[name].value(text)
    assert str(error.value).startswith(message)


def test_spaces_and_a_closing_comma_do_not_matter_in_lists() -> None:
    assert OPTIONS["sizes"].value(" 1, 2 ,3,") == (1, 2, 3)
    assert OPTIONS["layers"].value("") == ()


@pytest.mark.parametrize("text", [",", "1,,2", ", 1", "1,,"])
def test_a_word_that_is_missing_in_a_list_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="a word is empty"):  # else a variable not set is none
        OPTIONS["sizes"].value(text)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert OPTIONS["folder"].value("~/runs") == tmp_path / "runs"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed = 'x'", "'seed': expected an integer, got 'x'."),
        ("seed = 1.0", "'seed': expected an integer, got 1.0."),
        ("seed = true", "'seed': expected an integer, got True."),
        ("seed = 2024-01-01", "'seed': expected an integer"),
        ("scale = nan", "'scale': expected a number, got 'nan'."),
        ("scale = false", "'scale': expected a number"),
        ("name = 1", "'name': expected a string, got 1."),
        ("mode = 'slow'", "'mode': expected one of fast, exact, got 'slow'."),
        ("folder = 3", "'folder': expected a path, got 3."),
        ("folder = ''", "'folder': expected a path, got ''."),
        ("save = 1", "'save': expected true or false, got 1."),
        ("save = 'yes'", "'save': expected true or false, got 'yes'."),
        ("layers = 'all'", "'layers': expected an array, got 'all'."),
        ("layers = [['all']]", "'layers': expected a string, got ['all']."),
        ("layers = [true]", "'layers': expected a string, got True."),
        ("sizes = ['1']", "'sizes': expected an integer, got '1'."),
        ("sed = 1", "unknown key 'sed'. Did you mean 'seed'?"),
        ("zzz = 1", "unknown key 'zzz'. Known: name, word,"),
        ("[capture]\nseed = 1", "unknown key 'capture'. Tables are not read here"),
        ("seed =", "not valid TOML: Invalid value"),
        ("seed = 1\nseed = 2", "not valid TOML: Cannot overwrite"),
        ("seed = " + "9" * 5000, "not valid TOML"),
        ("seed = " + "[" * 100_000, "not valid TOML"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(line)
    with pytest.raises(UserError) as error:
        read_defaults(path, OPTIONS.values())
    assert str(error.value).startswith(f"{path}: {message}")


def test_arrays_of_words_may_hold_bare_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("layers = [0, '75%']\nscale = 1\n")
    found = from_texts(read_defaults(path, OPTIONS.values()))
    assert found.layers == ("0", "75%")
    assert found.scale == 1.0


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\r\nname = 'b'\r\n")
    assert read_defaults(path, OPTIONS.values()) == {"seed": "3", "name": "b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff\xfe\x00", "is this a binary file"), ("folder", "directory")],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    path = tmp_path / "config.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(UserError, match=message) as error:
        read_defaults(path, OPTIONS.values())
    assert str(path) in str(error.value)


def test_an_empty_file_and_an_empty_variable_give_no_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").touch()
    assert read_defaults(tmp_path / "config.toml", OPTIONS.values()) == {}
    for variable in ENVIRONMENT.values():
        monkeypatch.setenv(variable, "")
    assert defaults_from_environment() == {}
    monkeypatch.setenv("SDLMS_ARTIFACTS", "/runs")
    assert defaults_from_environment() == {"artifacts": "/runs"}


def test_a_tuple_of_choices_takes_its_choices_only() -> None:
    kind = tuple[Literal["a", "b"], ...]
    option = Option(name="site", help="", default=("a",), kind=kind)
    assert option.value("b,a") == ("b", "a")
    with pytest.raises(UserError, match="expected one of a, b, got 'c'"):
        option.value("a,c")

"""Every option of every command that has settings, given wrong in every way that needs no file.

The cases come from the dataclasses, so that a new option is tried as soon as there is one. None of
them may load torch: one process, in which that is impossible, tries all of them.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_origin

import pytest

from sdlms.cli import NAMED, main
from sdlms.options import Option, options_of
from sdlms.runs.writing import RunOptions
from sdlms.tools import explore

COMMANDS = {
    **{name: [*options_of(s.Config), *options_of(RunOptions)] for name, s in NAMED.items()},
    "explore": [option for option in options_of(explore.Config) if option.name != "seed"],
}
NUMBERS = {int: ("x", "1.5", "1e3", ""), float: ("x", "nan", "inf", "1e400", "")}
# Every number of ours counts or weighs something; two have further bounds, found without a file.
OUT_OF_RANGE = {"seed": ("-1", str(2**64)), "threads": ("-1", "1000000000"), "port": ("65536",)}
TORCHLESS = """
import json, sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sae_lens", "numpy"):
            raise ImportError(f"{name} is not needed to see this mistake")
sys.meta_path.insert(0, Refusing())
from tests.integration.test_misspelt_options import answers, cases
json.dump([(words, *answers(words)) for words, _ in cases()], sys.stdout)
"""


def cases() -> Iterator[tuple[list[str], str]]:
    """Command lines, and what the answer must hold."""
    for command, options in COMMANDS.items():
        for option in options:
            for words, message in mistakes(option):
                yield [command, *words], message


def mistakes(option: Option) -> Iterator[tuple[list[str], str]]:
    """One option, misspelt, without its value, and with values that are none of its type."""
    flag = option.flag
    doubled = flag + flag[-1]
    yield [doubled] if option.is_switch else [doubled, "1"], f"Did you mean '{flag}'?"
    if option.is_switch:
        yield [f"{flag}=maybe"], flag
        return
    yield [flag], f"'{flag}' requires an argument"
    listed = "1," if option.is_list else ""
    for value in wrong_values(option):
        if value or not option.is_list:
            yield [f"{flag}={listed}{value}"], flag
    if option.element in NUMBERS:
        for value in OUT_OF_RANGE.get(option.name, ("-1",)):
            yield [f"{flag}={value}"], flag


def wrong_values(option: Option) -> tuple[str, ...]:
    """Values that are not of the option's type."""
    if get_origin(option.element) is Literal:
        return ("no-such-word", "")
    if option.element is Path:
        return ("",)
    return NUMBERS.get(option.element, ())


def answers(words: list[str]) -> tuple[object, str, str]:
    """Exit code, stdout and stderr of the command line."""
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as stopped:
            code: object = stopped.code
        except ImportError as error:
            code = str(error)
    return code, out.buffer.getvalue().decode(), err.getvalue()


def test_there_are_cases_of_every_option() -> None:
    tried = {(words[0], words[1].partition("=")[0]) for words, _ in cases()}
    assert {(c, o.flag) for c, options in COMMANDS.items() for o in options} <= tried
    assert sum(1 for _ in cases()) > 500


@pytest.mark.slow
def test_every_mistake_is_one_line_and_needs_no_torch(work: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", TORCHLESS]
    environment = {"PYTHONPATH": str(root), "PATH": "", "COLUMNS": "80"}
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=True
    )
    wrong = []
    for (_, message), (words, code, out, err) in zip(cases(), json.loads(done.stdout), strict=True):
        line = err.removeprefix("sdlms: ")
        one_line = err.startswith("sdlms: ") and err.endswith("\n") and err.count("\n") == 1
        if (code, out) != (2, "") or not one_line or message not in line:
            wrong.append((words, code, out, err))
    assert wrong == []
    assert list(work.iterdir()) == []

"""The commands that make a report's runs again, from the settings that the runs recorded."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlms.report.lineage import Lineage
from sdlms.runs.reading import Run

LINE_WIDTH = 96


def typed(run: Run) -> str:
    """The command as it was typed."""
    words = [str(word) for word in run.start.get("argv", [])]
    return shlex.join(["sdlms", *words[1:]])


def script(lineage: Lineage) -> str:
    """A shell script: every run in turn, each one's path kept for those that read it."""
    names = _variables(lineage)
    above: dict[str, str] = {}  # a path may lead into a run that is recorded as no input
    lines = []
    for digest, run in lineage.runs.items():
        inputs = above | {
            each.name: f"${{{names[each.sha256]}}}"
            for each in lineage.inputs[digest]
            if each.sha256 in names
        }
        above[run.name] = f"${{{names[digest]}}}"
        lines.append(f"# {_one_line(run.name)}")
        lines.append(f"{names[digest]}=$({_wrapped(_words(run, inputs))})")
    return "\n".join(lines)


def _variables(lineage: Lineage) -> dict[str, str]:
    """A name for each run: its stage, and which of them it is."""
    counts: dict[str, int] = {}
    names = {}
    for digest, run in lineage.runs.items():
        stage = re.sub(r"\W", "_", run.stage, flags=re.ASCII)
        counts[stage] = counts.get(stage, 0) + 1
        names[digest] = f"{stage}_{counts[stage]}"
    return names


def _words(run: Run, inputs: Mapping[str, str]) -> list[str]:
    """The command with every setting, each with its value in one word; runs as variables."""
    words = ["sdlms", shlex.quote(run.stage)]
    resolved = run.start.get("resolved", {})
    for name, value in run.start.get("config", {}).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif value not in (None, []):
            words.append(f"{flag} {_value(value, resolved.get(name), inputs)}")
    return words


def _value(value: Any, resolved: Any, inputs: Mapping[str, str]) -> str:
    """A setting, quoted for the shell.

    Args:
        value: as it was given.
        resolved: what the run says of the setting of that name: `latest` was this run.
        inputs: name of a run -> the variable with its path.
    """
    values = value if isinstance(value, list) else [value]
    known = resolved if isinstance(resolved, list) else [resolved]
    if "latest" in values and all(isinstance(each, str) and each in inputs for each in known):
        values = known
    texts = [_escaped(str(each)) if isinstance(value, list) else str(each) for each in values]
    runs = [_in_a_run(text, inputs) for text in texts]
    if not any(runs):
        return shlex.quote(",".join(texts))
    quoted = [run or _in_quotes(text) for run, text in zip(runs, texts, strict=True)]
    return f'"{",".join(quoted)}"'


def _in_a_run(text: str, inputs: Mapping[str, str]) -> str | None:
    """A run's name or path, or a path in it, with the variable in the place of the run's folder."""
    parts = Path(text).parts
    for place in reversed(range(len(parts))):
        if variable := inputs.get(parts[place]):
            return "/".join([variable, *map(_in_quotes, parts[place + 1 :])])
    return None


def _escaped(word: str) -> str:
    """A word of a list; a comma in it is none between words."""
    if "," in word or "\\\\" in word or word.endswith("\\"):
        return word.replace("\\", "\\\\").replace(",", "\\,")
    return word


def _in_quotes(text: str) -> str:
    """Text between the double quotes of a shell."""
    return re.sub(r'([\\"$`])', r"\\\1", text)


def _one_line(text: str) -> str:
    """Text that cannot end its comment."""
    return " ".join(text.split())


def _wrapped(words: list[str]) -> str:
    """Lines that end with a backslash, none longer than need be."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > LINE_WIDTH:
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)

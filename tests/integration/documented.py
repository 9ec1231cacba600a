"""The commands that README and docs show, and how a test carries each of them out.

A command is taken as it is written. Words in capitals stand for runs and files of the test's, hub
names for folders of random weights, and flags are appended that make it small: of two that are
given, the later one counts.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("", "sh", "bash", "shell", "console")
COMMAND = re.compile(r"(?:^|[\s/(])sdlms (?P<words>[^#]*?)\s*\)?\s*(?:#.*)?$")
IN_TEXT = re.compile(r"`sdlms (?P<words>[a-z][^`…]* --[^`…]+)`")  # nothing left out: `…`, STAGE
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
RUN_NAME = re.compile(r"\d{8}_\d{6}_[\w-]+")
# Commands that no test carries out, each with the reason.
NOT_EXECUTED = {"capture --control": "names a flag; capture.md shows it with each of its values"}


class Smaller(NamedTuple):
    """Flags that make a command small enough, without changing what it shows.

    Attributes:
        command: its name.
        flags: what is appended.
        given: a word that the command must have; empty: any.
        absent: none of these does it have.
    """

    command: str
    flags: str
    given: str = ""
    absent: tuple[str, ...] = ()


PYTHIA_CAPTURE = "configs/capture/pythia-410m.toml"
PYTHIA_GATED = "configs/dynamic-k/pythia-410m.toml"
PYTHIA_CHAT = "configs/explore/pythia-410m.toml"
SMALLEST = "--model sdlms-small"
TASKS = "--tasks math,qa"  # instead of hub data sets
SMALLER = [
    Smaller("capture", "--max-tokens 400 --threads 1"),
    Smaller("capture", SMALLEST, absent=("--model", PYTHIA_CAPTURE)),
    Smaller("capture", TASKS, given=PYTHIA_CAPTURE),
    Smaller("sae-train", "--tokens 2048 --batch-size 1024 --expansion 1 --seeds 1 --threads 1"),
    Smaller("sae-train", "--eval-tokens 300 --ce-tokens 100"),
    Smaller("sae-train", "--tasks heldout", absent=("--acts",)),
    Smaller("sae-train", SMALLEST, absent=("--model", "--acts")),
    Smaller("sae-latents", "--threads 1"),
    Smaller("sae-evaluate", "--layers 2 --eval-tokens 300 --ce-tokens 100 --threads 1"),
    Smaller("probe", "--layers 2 --threads 1"),
    Smaller("probe", "--kinds logistic,mass_mean", absent=("--kinds",)),
    Smaller("si-modularity", "--layers 2 --threads 1"),
    Smaller("si-modularity", "--nulls 1", absent=("--no-graph",)),
    Smaller("si-modularity", "--ablate-tokens 200", given="--ablate"),
    Smaller("dynamic-k", "--keep 0.5,1 --seeds 1 --max-tokens 60 --threads 1"),
    Smaller("dynamic-k", "--window 64 --stride 32 --calibration-tokens 384"),
    Smaller("dynamic-k", "--layers none --rounds 1", absent=("speed",)),
    Smaller("dynamic-k", "--rounds 1", given="speed"),
    Smaller("dynamic-k", SMALLEST, absent=("--model", PYTHIA_GATED)),
    Smaller("dynamic-k", f"{TASKS} --rule post-norm,input", given=PYTHIA_GATED),
    Smaller("logit-lens", "--max-tokens 400 --threads 1"),
    Smaller("logit-lens", SMALLEST, absent=("--model",)),
    Smaller("logit-lens", "--tuned-steps 2 --tuned-tokens 300", given="--tuned"),
    Smaller(
        "logit-lens", "--tuned-steps 2 --tuned-tokens 300", given="configs/logit-lens/demo.toml"
    ),
    Smaller("explore", SMALLEST, absent=("--model", PYTHIA_CHAT)),
    # Minutes of work, and hours: the two pipelines that come with sdlms are checked only.
    Smaller("pipeline", "--dry-run", absent=("FILE",)),
]


def commands_in(text: str) -> Iterator[str]:
    """The words behind `sdlms`: of the shell's fenced blocks of a page, and whole ones in its text.

    In running text what has flags is a command, without them it is a name.
    """
    language = None
    for line in text.splitlines():
        if line.startswith("```"):
            language = line.removeprefix("```").strip() if language is None else None
        elif language is None:
            texts = (found["words"] for found in IN_TEXT.finditer(line))
            yield from (words for words in texts if "--help" not in words)
        elif language in SHELL and (found := COMMAND.search(line)):
            yield found["words"]


def documented() -> list[str]:
    """Every command once, in the order of the pages."""
    found = (command for page in PAGES for command in commands_in(page.read_text("utf-8")))
    return list(dict.fromkeys(found))


def words_of(command: str, given: Mapping[str, str]) -> list[str]:
    """What is carried out.

    Args:
        command: behind `sdlms`.
        given: placeholder -> what stands for it; for a run's name of some date it is that of `RUN`.
    """
    written = shlex.split(command)
    words = [",".join(_filled(part, given) for part in word.split(",")) for word in written]
    for flags in (s for s in SMALLER if s.command == words[0]):
        if flags.given in ("", *written) and not set(flags.absent) & set(written):
            words += shlex.split(flags.flags)
    return words


def _filled(part: str, given: Mapping[str, str]) -> str:
    """What stands for a placeholder; any other word is itself."""
    if RUN_NAME.fullmatch(part):
        return given["RUN"]
    if PLACEHOLDER.fullmatch(part):
        assert part in given, f"the pages name {part}: say in the test what stands for it"
        return given[part]
    return part

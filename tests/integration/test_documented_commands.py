"""Every `sdlms` command of README and docs is carried out, as `documented.py` makes it small."""

import json
import os
import re
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from sdlms.cli import NAMED
from sdlms.runs.reading import Run
from sdlms.storage.activations import ActivationsReader
from tests.conftest import Cli, save_tiny_model
from tests.integration.documented import (
    NOT_EXECUTED,
    PAGES,
    ROOT,
    SMALLER,
    commands_in,
    documented,
    words_of,
)
from tests.integration.studies import TEXTS, Study, linked
from tests.runs.small_runs import make_run
from tests.stages.gating_runs import run_in
from tests.stages.probe_runs import write_labels

COMMANDS = documented()
LARGE = "EleutherAI/pythia-1.4b-deduped"
SECONDS = 120  # until a loaded machine has answered


@dataclass(frozen=True)
class Desk:
    """A folder with all that the pages' commands name.

    Attributes:
        folder: the working folder.
        runs: all of them, the newest last.
        given: placeholder -> what stands for it.
    """

    folder: Path
    runs: list[Path]
    given: dict[str, str]


@pytest.fixture(scope="module")
def desk(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Captures of two more models and of two controls, what was found in them, labels, texts."""
    folder: Path = tmp_path_factory.mktemp("desk")
    for link, target in (("configs", ROOT / "configs"), (TEXTS, study.folder / TEXTS)):
        (folder / link).symlink_to(target)
    for name in ("pythia-70m", "pythia-410m", "pythia-1.4b"):
        save_tiny_model(folder / f"EleutherAI/{name}-deduped")
    runs = dict(study.runs)
    linked(list(runs.values()), folder / "artifacts")
    capture = study.command("capture")
    for name, words in {
        "medium": [word.replace("sdlms-small", "sdlms-medium") for word in capture],
        "large": [word.replace("sdlms-small", LARGE) for word in capture],
        "reinit": [*capture, "--control=reinit"],
        "permuted": [*capture, "--control=permute-tokens"],
    }.items():  # fmt: skip
        runs[name] = run_in(folder, [*words, "--quiet"])
    for name in ("medium", "large"):
        words = ["si-modularity", "--acts", runs[name].name, "--layers", "50%", "--nulls", "1"]
        runs[f"{name}-si"] = run_in(folder, [*words, "--threads", "1", "--quiet"])
    names = {name: run.name for name, run in runs.items()}
    write_files(folder, runs["capture"])
    (sae,) = (path.parent for path in runs["sae-train"].rglob("cfg.json"))
    given = {
        "M": "sdlms-small",
        "FOLDER": str(sae),
        "FILE": "steps.toml",
        "NAME": "spare",
        **dict.fromkeys(("RUN", "SMALL_RUN", "SMALL_CAPTURE"), names["capture"]),
        **dict.fromkeys(("MEDIUM_RUN", "MEDIUM_CAPTURE"), names["medium"]),
        **dict.fromkeys(("LARGE_RUN", "LARGE_CAPTURE"), names["large"]),
        **dict.fromkeys(("SI_RUN", "SMALL_SI"), names["si-modularity"]),
        **{"MEDIUM_SI": names["medium-si"], "LARGE_SI": names["large-si"]},
        **{"REINIT_RUN": names["reinit"], "PERMUTED_RUN": names["permuted"]},
        **{"SAE_TRAIN_RUN": names["sae-train"], "SAE_LATENTS_RUN": names["sae-latents"]},
        "LOGIT_LENS_RUN": names["logit-lens"],
    }
    (folder / "steps.toml").write_text(
        f'[[step]]\nstage = "scaling"\nruns = ["{names["capture"]}", "{names["medium"]}"]\n'
    )
    others = [run for name, run in runs.items() if name not in study.runs]
    return Desk(folder, [*others, *study.runs.values()], given)


def write_files(folder: Path, capture: Path) -> None:
    """The texts and labels that the pages name."""
    (folder / "corpus.txt").write_text("\n\n".join(f"Paris has {n} bridges." for n in range(60)))
    lines = [json.dumps({"text": f"The capital of France is Paris, {n}."}) for n in range(20)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    with ActivationsReader(capture / "activations.h5") as file:
        ids = file.documents("id")
    documents = [(name, "yes" if n % 2 else "no") for n, name in enumerate(ids)]
    write_labels(folder / "labels.csv", documents, "document_id,label")
    tokens = [(name, token, label) for name, label in documents for token in (2, 3)]
    write_labels(folder / "tokens.csv", tokens, "document_id,token,label")


@pytest.fixture
def seat(desk: Desk, work: Path) -> Path:
    """A working folder with the desk's files, and its runs in an artifacts folder of its own."""
    for path in desk.folder.iterdir():
        if path.name != "artifacts":
            (work / path.name).symlink_to(path)
    linked(desk.runs, work / "artifacts")
    return work


@pytest.mark.slow
@pytest.mark.parametrize("command", [each for each in COMMANDS if each not in NOT_EXECUTED])
def test_a_documented_command_does_what_it_says(
    command: str, desk: Desk, seat: Path, cli: Cli, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    given = desk.given
    if "NAME" in command.split():
        given = {**given, "NAME": make_run(seat / "artifacts").name}
    words = words_of(command, given)
    if words[0] == "explore":
        explored(cli, words)
        return
    code = cli(*words)
    out, err = capfdbinary.readouterr()
    assert code == 0, err.decode()
    if words[0] in NAMED:
        run = Run(Path(out.decode().splitlines()[-1]))
        assert (run.stage, run.complete) == (words[0], True)


def explored(cli: Cli, words: list[str]) -> None:
    """Start the explorer in this process; when its page has answered, it is stopped by SIGINT."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    seen: list[int] = []

    def visit() -> None:
        try:
            seen.append(status_of(words, port))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    code = cli(*words, "--port", port)
    visitor.join()
    assert (code, seen) == (130, [200])


def status_of(words: list[str], port: int) -> int:
    """What the page answers with, once it does."""
    token = words[words.index("--token") + 1] if "--token" in words else ""
    page = Request(f"http://127.0.0.1:{port}/", headers={"Authorization": f"Bearer {token}"})
    end = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(page, timeout=SECONDS) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_what_is_not_executed_is_still_on_a_page() -> None:
    assert set(NOT_EXECUTED) <= set(COMMANDS)
    assert all(NOT_EXECUTED.values())


def test_every_command_is_on_some_page_and_nothing_is_made_small_in_vain() -> None:
    shown = {command.split()[0] for command in COMMANDS}
    assert shown >= {*NAMED, "pipeline", "explore", "runs", "models"}
    for rule in SMALLER:
        assert any(command.split()[0] == rule.command and rule.given in ("", *command.split())
                   for command in COMMANDS), rule  # fmt: skip


def test_commands_are_found_wherever_they_stand() -> None:
    page = (
        "sdlms not-this, `sdlms probe --acts A --seeds 3`, `sdlms x`, `sdlms STAGE --reuse`, "
        "`sdlms runs list --help`, `sdlms scaling --runs A,…`, `a --b`\n"
        "```\n.venv/bin/sdlms report   # why\nRUN=$(sdlms capture --label a)\n"
        "sdlms/stages/   a folder\n```\n```toml\nsdlms nor-this\n```\n```sh\n"
        "sdlms runs list | head\n```\n"
    )
    in_text = ["probe --acts A --seeds 3"]
    assert list(commands_in(page)) == [*in_text, "report", "capture --label a", "runs list | head"]


def test_every_flag_that_a_page_names_exists() -> None:
    """In running text too, where nothing is executed."""
    known = known_flags()
    for page in PAGES:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page.read_text("utf-8")))
        assert named <= known, f"{page.name}: {named - known}"


def known_flags() -> set[str]:
    """The flags of all our commands, and those of others' that the pages name."""
    import click
    import typer

    from sdlms.cli import app

    waiting: list[click.Command] = [typer.main.get_command(app)]
    found = {"--index-url", "--help"}
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found

"""`sdlms explore`: what is refused before a model is loaded, and a server from start to end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from sdlms.explorer.cache.limits import CacheLimits
from sdlms.progress import LOGGER
from sdlms.storage import extras
from sdlms.tools import explore
from tests.conftest import Cli
from tests.explorer.small import chat, client_of, small_explorer

TOKEN = "correct-horse-battery"
SECONDS = 120  # a loaded machine imports torch slowly


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "x"], "--port: expected an integer, got 'x'."),
        (["--port", "65536"], "--port must be 0 to 65535, got 65536."),
        (["--port", "-1"], "--port must be 0 to 65535, got -1."),
        (["--token", "short"], "--token must have 16 to 256 letters, digits or any of . _ ~ -"),
        (["--token", "sixteen letters?"], "--token must have 16 to 256"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in. Give a --token"),
        (["--host", "::"], "--host :: lets other machines in."),
        (["--host", "example.org"], "--host example.org lets other machines in."),
        (["--memory", "1"], "--memory '1' is no size. Write it like 500MB, 2GB or 2GiB."),
        (["--disk", "50%"], "--disk '50%' is no size."),
        (["--max-age-days", "0"], "--max-age-days must be >= 1, got 0."),
        (["--store-hidden", "zip"], "--store-hidden: expected one of auto, none, fp16, int8"),
        (["--tuned-lens", "nowhere", "--port", "0"], "no run 'nowhere'"),
        (["--device", "tpu"], "--device 'tpu' is none of auto"),
        (["--dtype", "int8"], "--dtype: expected one of auto"),
        (["--threads", "-1"], "--threads must be 0"),
        (["--cache", ""], "--cache: expected a path, got ''."),
        (["--cache", __file__], "py is not a folder). Choose another folder with --cache."),
        (["--artifacts", f"{__file__}/x"], "folder). Choose another folder with --artifacts."),
        (["--prot", "1"], "No such option: --prot. Did you mean '--port'?"),
        (["--seed", "1"], "No such option: --seed"),
        (["--model", "sdlms-smal", "--port", "0"], "Did you mean 'sdlms-small'?"),
        (["--model", "sdlms-small", "--port", "0", "--revision", "main"], "--revision is for hub"),
        (["--device", "cuda:99", "--port", "0"], "--device cuda:99: this machine has"),
    ],
)
def test_a_mistake_gets_one_line(
    cli: Cli, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli("explore", *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("sdlms: ") and printed.err.count("\n") == 1
    assert message in printed.err


def test_a_short_token_is_not_repeated(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    cli("explore", "--token", "my-secret")
    assert "my-secret" not in capsys.readouterr().err


def test_the_token_may_come_from_the_environment(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_TOKEN", "short")
    assert cli("explore") == 2
    assert "--token must have 16" in capsys.readouterr().err


def test_defaults_may_come_from_a_file_and_flags_win(
    cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[explore.Config] = []
    monkeypatch.setattr(explore, "run", seen.append)
    Path("explore.toml").write_text('model = "sdlms-small"\nport = 9000\nmemory = "2GB"\n')
    assert cli("explore", "--config", "explore.toml", "--port", "9001") == 0
    assert seen == [explore.Config(model="sdlms-small", port=9001, memory="2GB")]
    Path("explore.toml").write_text("prot = 9000\n")
    assert cli("explore", "--config", "explore.toml") == 2
    assert "unknown key 'prot'. Did you mean 'port'?" in capsys.readouterr().err


def test_the_help_shows_no_token(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    Path("explore.toml").write_text(f'token = "{TOKEN}"\nport = 9000\n')
    assert cli("explore", "--config", "explore.toml", "--help") == 0
    printed = capsys.readouterr().out
    assert "9000" in printed and TOKEN not in printed


def test_what_the_cache_takes_is_said_once() -> None:
    config, limits = explore.Config(), CacheLimits()
    assert explore.bytes_of("--memory", config.memory) == limits.memory_bytes
    assert explore.bytes_of("--disk", config.disk) == limits.disk_bytes
    assert config.max_age_days * explore.DAY_SECONDS == limits.disk_seconds


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "information\n"), (("-v",), "a detail\ninformation\n"), (("--quiet",), "")],
)
def test_how_much_is_said_can_be_chosen(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    def talk(_: explore.Config) -> None:
        LOGGER.debug("a detail")
        LOGGER.info("information")

    monkeypatch.setattr(explore, "run", talk)
    assert cli("explore", *words) == 0
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("module", ["fastapi", "orjson", "uvicorn"])
def test_without_the_extra_the_install_line_is_given(
    cli: Cli,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
) -> None:
    find = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == module else find(name))
    assert cli("explore", "--port", "0") == 2
    line = f"sdlms explore: needs the library '{module}'. Install it: pip install 'sdlms[web]'"
    assert line in capsys.readouterr().err


def test_a_taken_port_names_a_free_one_before_a_model_is_looked_for(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli("explore", "--model", "no/model", "--port", port) == 2
    assert re.fullmatch(
        rf"sdlms: --port {port} is taken on 127\.0\.0\.1\. Free is: --port \d+\n",
        capsys.readouterr().err,
    )


def test_encoders_are_refused(
    cli: Cli, capsys: pytest.CaptureFixture[str], architecture_model: Callable[[str], Path]
) -> None:
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained("encoder")
    capsys.readouterr()
    assert cli("explore", "--model", "encoder", "--port", "0") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "bert" in printed.err


@contextmanager
def started(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address that it printed."""
    with subprocess.Popen(
        [sys.executable, "-m", "sdlms", "explore", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def answer(url: str, **headers: str) -> Any:
    with urlopen(Request(url, headers=headers), timeout=SECONDS) as response:
        return json.load(response)


@pytest.mark.slow
def test_conversations_outlive_the_server(tmp_path: Path) -> None:
    """What one process kept is there in the next, which has a file's settings and a token."""
    explorer = small_explorer(tmp_path / "artifacts/.explorer")
    client = client_of(explorer)
    path = f"api/activations/{chat(client)['conversation_id']}/5"
    seen = client.get(path).json()
    explorer.close()
    (tmp_path / "explore.toml").write_text(
        f'model = "sdlms-small"\ndtype = "float32"\ndevice = "cpu"\nport = 0\ntoken = "{TOKEN}"\n'
    )
    words = ("--config", "explore.toml", "--host", "0.0.0.0", "--quiet")
    with started(tmp_path, *words) as (process, url):
        assert re.fullmatch(r"http://[^/]+:\d+/", url)
        with pytest.raises(HTTPError, match="401"):
            answer(url + path)
        panel = answer(url + path, Authorization=f"Bearer {TOKEN}")
        assert panel == {**seen, "source": "disk"} and not panel["recomputed"]
        printed, errors = stopped(process, signal.SIGINT)
    assert TOKEN not in url + printed
    assert errors == ""  # nothing but warnings is said


def stopped(process: subprocess.Popen[str], kind: signal.Signals) -> tuple[str, str]:
    """What a server prints after its address when it is told to stop, on both streams."""
    process.send_signal(kind)
    printed, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    return printed, errors

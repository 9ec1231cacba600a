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

from sdlms.storage import extras
from tests.conftest import Cli

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


@pytest.mark.parametrize("module", ["fastapi", "uvicorn"])
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
    command = [sys.executable, "-m", "sdlms", "explore", "--model", "sdlms-small", "--port", "0"]
    with subprocess.Popen(
        [*command, *words],
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


def answer(url: str, body: object = None, **headers: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers |= {"Content-Type": "application/json"}
    with urlopen(Request(url, data, headers), timeout=SECONDS) as response:
        return json.load(response)


@pytest.mark.slow
def test_conversations_outlive_the_server(tmp_path: Path) -> None:
    with started(tmp_path) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        request = {"text": "What is two plus two?", "max_new_tokens": 4}
        found = answer(f"{url}api/chat/with-activations", request)["conversation_id"]
        seen = answer(f"{url}api/activations/{found}/5")
        assert stopped(process, signal.SIGINT) == ""
    # Once more, and for others too.
    with started(tmp_path, "--host", "0.0.0.0", "--token", TOKEN) as (process, url):
        address = f"{url}api/activations/{found}/5"
        with pytest.raises(HTTPError, match="401"):
            answer(address)
        panel = answer(address, Authorization=f"Bearer {TOKEN}")
        assert panel == {**seen, "source": "disk"} and not panel["recomputed"]
        assert TOKEN not in url + stopped(process, signal.SIGTERM)
    assert (tmp_path / "artifacts/.explorer").is_dir()


def stopped(process: subprocess.Popen[str], kind: signal.Signals) -> str:
    """What a server prints after its address when it is told to stop."""
    process.send_signal(kind)
    printed, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors and TOKEN not in errors
    return printed

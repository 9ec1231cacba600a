"""Chat with a model in the browser and see what it would say at every layer.

The address of the page is printed when the model is loaded; Ctrl-C ends it. Conversations are kept
under the artifacts folder. Nothing but this machine is served, unless a token is given.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sdlms.command import ComputeConfig, add_command
from sdlms.errors import UserError
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.http.hosts import allowed_hosts, is_loopback
from sdlms.models.calibration import size_bytes
from sdlms.options import options_of
from sdlms.progress import LOGGER
from sdlms.runs.folder import check_no_file
from sdlms.storage.extras import require

if TYPE_CHECKING:
    from socket import socket

    from sdlms.explorer.service import Explorer

TOKEN = r"[A-Za-z0-9._~-]{16,256}"  # what a URL and a header hold as it is
CACHE = ".explorer"
DAY_SECONDS, GB = 86_400, 10**9
LIMITS = CacheLimits()  # what the cache takes where nothing else is said


@dataclass(frozen=True, kw_only=True)
class Config(ComputeConfig):
    """Settings of the explorer."""

    model: Annotated[str, "Hub id, local folder or embedded name."] = "sdlms-medium"
    revision: Annotated[str | None, "Revision of a hub model."] = None
    tuned_lens: Annotated[
        str | None, "Look through this one too: a folder, or a logit-lens run that trained it."
    ] = None
    host: Annotated[str, "Address to listen on; others than loopback need --token."] = "127.0.0.1"
    port: Annotated[int, "Port to listen on; 0 takes any that is free."] = 8000
    token: Annotated[str | None, "What every visitor must show; at least 16 characters."] = None
    artifacts: Annotated[Path, "Folder that holds the runs."] = Path("artifacts")
    cache: Annotated[Path | None, "Folder of conversations; else .explorer in --artifacts."] = None
    store_hidden: Annotated[
        Literal["auto", "none", "fp16", "int8"],
        "How hidden states are stored; auto takes the most exact under 100 MB per 1,000 tokens.",
    ] = "auto"
    memory: Annotated[
        str,
        "Most memory for what is stored of conversations; the model, and up to 600 MB of what is "
        "being computed, written and shown, come on top.",
    ] = f"{LIMITS.memory_bytes // GB}GB"
    disk: Annotated[str, "Most disk for conversations that are not marked to be kept."] = (
        f"{LIMITS.disk_bytes // GB}GB"
    )
    max_age_days: Annotated[int, "Conversations not used for longer are deleted."] = int(
        LIMITS.disk_seconds // DAY_SECONDS
    )

    def __post_init__(self) -> None:
        """Check what can be checked without torch."""
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must be 0 to 65535, got {self.port}.")
        if self.token is not None and not re.fullmatch(TOKEN, self.token):
            raise UserError("--token must have 16 to 256 letters, digits or any of . _ ~ -")
        if self.token is None and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host} lets other machines in. Give a --token that they must show, "
                "or leave --host out."
            )
        if self.max_age_days < 1:
            raise UserError(f"--max-age-days must be >= 1, got {self.max_age_days}.")
        bytes_of("--memory", self.memory)
        bytes_of("--disk", self.disk)


def bytes_of(flag: str, text: str) -> int:
    """What a size means in bytes.

    Raises:
        UserError: it is misspelt.
    """
    try:
        return size_bytes(text)
    except ValueError:
        raise UserError(f"{flag} '{text}' is no size. Write it like 500MB, 2GB or 2GiB.") from None


def run(config: Config) -> None:
    """Serve until a signal says to stop; prints the address when the page can be used."""
    for module in ("fastapi", "orjson", "uvicorn"):
        require(module, "web", "sdlms explore")
    from sdlms.explorer.http.serving import listen

    check_no_file(_cache_folder(config), "--artifacts" if config.cache is None else "--cache")
    # Nothing heavy is loaded yet: a taken port is seen at once.
    with listen(config.host, config.port) as listener:
        explorer = _explorer(config)
        try:
            _serve(config, explorer, listener)
        finally:
            explorer.close()


def _cache_folder(config: Config) -> Path:
    """Where conversations are kept."""
    return config.cache or config.artifacts / CACHE


def _serve(config: Config, explorer: "Explorer", listener: "socket") -> None:
    """Say where the page is, and answer."""
    from sdlms.explorer.http.limits import Limits
    from sdlms.explorer.http.server import create_app
    from sdlms.explorer.http.serving import serve, url_of

    limits = Limits()
    app = create_app(explorer, limits, config.token, allowed_hosts(config.host))
    if config.token is not None:
        LOGGER.info("a browser shows the token once, as /?token=TOKEN")
    LOGGER.info("Ctrl-C ends the explorer")
    typer.echo(url_of(config.host, listener))
    serve(app, listener, limits)


def _explorer(config: Config) -> "Explorer":
    """The model and its conversations; what is wrong is found before weights are loaded."""
    from sdlms.explorer.opening import Storage, open_explorer
    from sdlms.lens.tuned_source import find_tuned
    from sdlms.models.architectures import check_causal
    from sdlms.models.device import device_of, dtype_of, set_threads
    from sdlms.models.inputs import read_model

    device = device_of(config.device)
    dtype = dtype_of(config.dtype, device)
    set_threads(config.threads)
    source, model_config = read_model(config.model, config.revision)
    check_causal(model_config)
    tuned = None
    if config.tuned_lens is not None:
        tuned = find_tuned(config.artifacts, config.tuned_lens)
    limits = CacheLimits(
        memory_bytes=bytes_of("--memory", config.memory),
        disk_bytes=bytes_of("--disk", config.disk),
        disk_seconds=config.max_age_days * DAY_SECONDS,
    )
    folder = _cache_folder(config)
    storage = Storage(folder=folder, store_hidden=config.store_hidden, limits=limits)
    LOGGER.info(f"loading {source.name} on {device}, {str(dtype).removeprefix('torch.')}")
    return open_explorer(source, dtype, device, storage, tuned.folder if tuned else None)


def add_explore(app: typer.Typer) -> None:
    """Add the command: its options are the fields of `Config` but the seed, which a reply has."""
    options = [option for option in options_of(Config) if option.name != "seed"]
    add_command(app, "explore", __doc__, options, lambda values: run(Config(**values)))

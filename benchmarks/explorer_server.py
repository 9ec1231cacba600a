"""`sdlms explore` as a process of its own, as its user has it."""

import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.explorer.browser import Server

STOP_SECONDS = 30


class ChildServer(Server):
    """The command in a child process.

    Args:
        folder: keeps the conversations.
        model: its name or folder.
        words: further words of the command line.
    """

    def __init__(self, folder: Path, model: str, *words: str) -> None:
        super().__init__(folder, model)
        self._command = [sys.executable, "-m", "sdlms", "explore", "--model", model, *words]
        self._command += ["--cache", str(folder / "cache"), "--artifacts", str(folder)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait for its address; a second start has the port of the first."""
        port = urlsplit(self.url).port or 0
        self._process = subprocess.Popen(
            [*self._command, "--port", str(port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "no server"

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does."""
        assert self._process is not None
        with self._process as process:
            process.send_signal(signal.SIGINT)
            process.wait(STOP_SECONDS)

"""Data sets in the hub's layout, as folders; and a small hub that serves such folders."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pyarrow
import pyarrow.parquet

Rows = list[dict[str, Any]]


def write_parquet(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def write_data(folder: Path, splits: dict[str, Rows]) -> Path:
    """A repository without configs: `data/SPLIT-00000-of-00001.parquet`."""
    for split, rows in splits.items():
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    return folder


def write_configs(folder: Path, configs: dict[str, dict[str, Rows]]) -> Path:
    """A repository with a folder per config, which the YAML of its README names."""
    card = ["---", "configs:"]
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            write_parquet(folder / config / f"{split}-00000-of-00001.parquet", rows)
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# A data set", ""]))
    return folder


class _Hub(BaseHTTPRequestHandler):
    """The addresses that `datasets` asks for; `root/OWNER/NAME/COMMIT/` holds the files.

    `root/OWNER/NAME/refs.json` says at which commit branches and tags are.
    """

    protocol_version = "HTTP/1.1"
    root: Path

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if match := re.fullmatch(r"/datasets/(\w+/\w+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        elif match := re.fullmatch(r"/api/datasets/(\w+/\w+)/revision/([^/]+)", path):
            self._answer(json.dumps({"id": match[1], "sha": match[2]}).encode())
        elif match := re.fullmatch(r"/api/datasets/(\w+/\w+)/tree/([^/]+)/?(.*)", path):
            self._tree(*match.groups())
        else:
            self._answer(b"{}", 404)

    do_HEAD = do_GET

    def _file(self, repository: str, revision: str, name: str) -> None:
        folder = self.root / repository
        if not folder.is_dir():
            self._answer(b"", 401, {"X-Error-Code": "RepoNotFound"})
            return
        commits = json.loads((folder / "refs.json").read_text())
        commit = commits.get(unquote(revision), revision)
        file = folder / commit / unquote(name)
        if not (folder / commit).is_dir():
            self._answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        elif not file.is_file():
            self._answer(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            etag = f'"{_oid(file)}"'
            self._answer(file.read_bytes(), 200, {"X-Repo-Commit": commit, "ETag": etag})

    def _tree(self, repository: str, commit: str, name: str) -> None:
        folder = self.root / repository / commit
        items: list[dict[str, Any]] = []
        for path in sorted((folder / unquote(name)).iterdir()):
            item = {"path": str(path.relative_to(folder)), "type": "directory", "oid": "0" * 40}
            if path.is_file():
                item |= {"type": "file", "oid": _oid(path)}
            items.append({**item, "size": path.stat().st_size})
        self._answer(json.dumps(items).encode())

    def _answer(self, body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """Serve the repositories below `root`; gives the hub's address."""
    handler = type("Hub", (_Hub,), {"root": root})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""Compile kernels in C on demand, for this very processor, into the user's cache folder.

The name of a compiled file is made of everything that decides its content: source, headers, flags,
compiler and processor. Its last 32 bytes are the sha256 of what comes before, for loading a damaged
library can end the process.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdlms.errors import UserError
from sdlms.storage.cache_folder import cache_folder

HEADERS = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
NAMES = ("cc", "gcc", "clang")
LONGEST_SECONDS = 60
OLD_SECONDS = 3600  # of a folder that a compiler works in: its process was killed
DIGEST_BYTES = hashlib.sha256().digest_size


class NoKernelError(Exception):
    """Why there is no compiled kernel here, in one line."""


@dataclass(frozen=True)
class Source:
    """What a kernel is made of, beside the headers of this package.

    Attributes:
        name: of the compiled file.
        path: of the C file.
        defines: flags of its own.
    """

    name: str
    path: Path
    defines: tuple[str, ...] = ()

    def content(self) -> list[str]:
        """Everything that a compiler reads."""
        paths = [self.path, *sorted(HEADERS.glob("*.h"))]
        return [path.read_text() for path in paths]


@functools.cache
def kernel(source: Source) -> ctypes.CDLL:
    """A kernel, compiled now unless it was before.

    Raises:
        NoKernelError: There is no compiler, it fails or takes too long, or the result cannot be
            loaded. The same compilers are not tried twice by a process.
    """
    found = kernel_or_reason(source, tuple(compilers()))
    if isinstance(found, str):
        raise NoKernelError(found)
    return found


@functools.cache
def kernel_or_reason(source: Source, commands: tuple[tuple[str, ...], ...]) -> ctypes.CDLL | str:
    """The kernel by the first compiler that makes it, or what the first of all says."""
    if not commands:
        return f"no C compiler was found ($CC, {', '.join(NAMES)}, ziglang)"
    reasons: list[str] = []
    for command in commands:
        try:
            return _kernel_by(command, source)
        except NoKernelError as error:
            reasons.append(str(error))
    return reasons[0]


def compilers() -> list[tuple[str, ...]]:
    """Commands to try in turn: `$CC` alone where it is set, else those on PATH, then ziglang.

    Raises:
        NoKernelError: `$CC` cannot be read.
    """
    said = os.environ.get("CC", "")
    try:
        named = shlex.split(said)
    except ValueError as error:
        raise NoKernelError(f"$CC is {said!r}, no command ({error})") from None
    if named:
        return [(_absolute(named[0]), *named[1:])]
    paths = [path for name in NAMES if (path := shutil.which(name))]
    found: list[tuple[str, ...]] = [(_absolute(path),) for path in paths]
    if importlib.util.find_spec("ziglang"):
        found.append((sys.executable, "-m", "ziglang", "cc"))
    return found


def _absolute(program: str) -> str:
    """A program from where it runs in another folder; a name without folder is that of PATH."""
    found = shutil.which(program) or program
    return str(Path(found).absolute()) if Path(found).name != found else program


def _kernel_by(command: Sequence[str], source: Source) -> ctypes.CDLL:
    """What one compiler makes; from the cache folder where that can be used."""
    reason = ""
    for folder_of in (_own_folder, _folder_of_process):
        try:
            if folder := folder_of():
                return _kernel_in(folder, command, source)
        except OSError as error:  # a full disk, a folder from which nothing may be executed
            reason = _first_line(str(error))
    raise NoKernelError(reason)


def _kernel_in(folder: Path, command: Sequence[str], source: Source) -> ctypes.CDLL:
    """The compiled file of a folder, made now unless it is there and whole."""
    arguments = (*FLAGS, *source.defines)
    identity = [*source.content(), *arguments, *command, _version(command), _processor()]
    fingerprint = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    path = folder / f"{source.name}-{fingerprint}.so"
    if not _is_whole(path):
        _compile([*command, *arguments, f"-I{HEADERS}", str(source.path)], path)
    return ctypes.CDLL(str(path))


def _own_folder() -> Path | None:
    """The cache folder; None where it cannot be written, or others may write to it."""
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, UserError):  # UserError: the user has no home
        return None
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    open_to_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if mine and not open_to_others and os.access(folder, os.W_OK) else None


@functools.cache
def _folder_of_process() -> Path | None:
    """Where to compile if the cache folder is of no use; it goes when the process ends."""
    name = tempfile.mkdtemp(prefix="sdlms-kernels-")
    atexit.register(shutil.rmtree, name, ignore_errors=True)
    return Path(name)


def _is_whole(path: Path) -> bool:
    """Whether a compiled file is there as it was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return hashlib.sha256(body).digest() == digest


def _compile(command: Sequence[str], path: Path) -> None:
    """Compile beside the file's place and move it there: other processes see all of it or none."""
    _sweep(path.parent)
    with _folder_to_work_in("build-", path.parent) as name:
        built = Path(name) / path.name
        _run([*command, "-o", str(built)], Path(name))
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        built.replace(path)


def _version(command: Sequence[str]) -> str:
    """What a compiler says of itself."""
    with _folder_to_work_in("sdlms-kernels-", None) as name:
        return _run([*command, "--version"], Path(name))


def _folder_to_work_in(prefix: str, parent: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Where a compiler runs. What cannot be removed afterwards is left behind."""
    return tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for left in folder.glob("build-*"):
        with contextlib.suppress(OSError):  # another process removes it, too
            if time.time() - left.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(left)


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a compiler in a folder, which takes whatever it leaves behind; gives its output."""
    zig = {f"ZIG_{kind}_CACHE_DIR": str(folder / "zig") for kind in ("LOCAL", "GLOBAL")}
    environment = {**os.environ, **zig, "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise NoKernelError(f"{command[0]} cannot be run ({error.strerror})") from None
    with process, contextlib.ExitStack() as ending:
        ending.callback(_end, process)
        try:
            output, errors = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            raise NoKernelError(f"{command[0]} took longer than {LONGEST_SECONDS} s") from None
    if process.returncode:
        said = _first_line(errors) or f"exit code {process.returncode}"
        raise NoKernelError(f"{command[0]} failed: {said}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """End a compiler that still runs, and the processes that it started: it leads their group."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _first_line(text: str) -> str:
    """The first line that names an error, else the first that says anything."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def _processor() -> str:
    """What `-march=native` looks at."""
    found = [platform.machine(), platform.processor()]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text().split("\n\n")[0].splitlines()
        wanted = ("vendor_id", "cpu family", "model", "flags", "features", "cpu part")
        found += [line for line in first if line.lower().startswith(wanted)]
    return "\n".join(found)

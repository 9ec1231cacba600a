"""Compile the kernel `rows.c` on demand, for this very processor, into the user's cache folder.

The name of a compiled file is made of everything that decides its content: source, element type,
flags, compiler and processor. Its last 32 bytes are the sha256 of what comes before, for loading a
damaged library can end the process.
"""

import atexit
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sdlms.storage.cache_folder import cache_folder

Element = Literal["float32", "bfloat16"]

SOURCE = Path(__file__).with_name("rows.c")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC")
DEFINES: dict[Element, tuple[str, ...]] = {"float32": (), "bfloat16": ("-DBFLOAT16",)}
NAMES = ("cc", "gcc", "clang")
LONGEST_SECONDS = 60
DIGEST_BYTES = hashlib.sha256().digest_size


class NoKernelError(Exception):
    """Why there is no compiled kernel here, in one line."""


@functools.cache
def kernel(element: Element) -> ctypes.CDLL:
    """The kernel for one element type, compiled now unless it was before.

    Raises:
        NoKernelError: There is no compiler, it fails or takes too long, or the result cannot be
            loaded.
    """
    commands = compilers()
    if not commands:
        raise NoKernelError(f"no C compiler was found ($CC, {', '.join(NAMES)}, ziglang)")
    reasons: list[NoKernelError] = []
    for command in commands:
        try:
            return _kernel_by(command, element)
        except NoKernelError as error:
            reasons.append(error)
    raise reasons[0]


def compilers() -> list[tuple[str, ...]]:
    """Commands to try in turn: `$CC` alone where it is set, else those on PATH, then ziglang."""
    if named := shlex.split(os.environ.get("CC", "")):
        return [tuple(named)]
    found: list[tuple[str, ...]] = [(path,) for name in NAMES if (path := shutil.which(name))]
    if importlib.util.find_spec("ziglang"):
        found.append((sys.executable, "-m", "ziglang", "cc"))
    return found


def _kernel_by(command: Sequence[str], element: Element) -> ctypes.CDLL:
    """What one compiler makes; from the cache folder where that can be used."""
    reason = ""
    for folder_of in (_own_folder, _folder_of_process):
        try:
            if folder := folder_of():
                return _kernel_in(folder, command, element)
        except OSError as error:  # a full disk, a folder from which nothing may be executed
            reason = _first_line(str(error))
    raise NoKernelError(reason)


def _kernel_in(folder: Path, command: Sequence[str], element: Element) -> ctypes.CDLL:
    """The compiled file of a folder, made now unless it is there and whole."""
    arguments = (*FLAGS, *DEFINES[element])
    identity = [SOURCE.read_text(), *arguments, *command, _version(command), _processor()]
    fingerprint = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]
    path = folder / f"rows-{element}-{fingerprint}.so"
    if not _is_whole(path):
        _compile([*command, *arguments], path)
    return ctypes.CDLL(str(path))


def _own_folder() -> Path | None:
    """The cache folder; None where it cannot be written, or others may write to it."""
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
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
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as name:
        built = Path(name) / path.name
        _run([*command, "-o", str(built), str(SOURCE)], Path(name))
        content = built.read_bytes()
        built.write_bytes(content + hashlib.sha256(content).digest())
        built.replace(path)


def _version(command: Sequence[str]) -> str:
    """What a compiler says of itself."""
    with tempfile.TemporaryDirectory(prefix="sdlms-kernels-") as name:
        return _run([*command, "--version"], Path(name))


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a compiler in a folder, which takes whatever it leaves behind; gives its output."""
    zig = {f"ZIG_{kind}_CACHE_DIR": str(folder / "zig") for kind in ("LOCAL", "GLOBAL")}
    environment = {**os.environ, **zig, "LC_ALL": "C", "TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoKernelError(f"{command[0]} took longer than {LONGEST_SECONDS} s") from None
    except OSError as error:
        raise NoKernelError(f"{command[0]} cannot be run ({error.strerror})") from None
    if done.returncode:
        said = _first_line(done.stderr) or f"exit code {done.returncode}"
        raise NoKernelError(f"{command[0]} failed: {said}")
    return done.stdout


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

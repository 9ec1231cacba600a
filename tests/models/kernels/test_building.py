"""The kernel is compiled once, in one place, and a place or compiler of no use gives a reason."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdlms.models.gating.compiled import ROWS
from sdlms.models.kernels import building
from sdlms.models.kernels.building import NoKernelError, Source, compilers, kernel

FLOAT32, BFLOAT16 = Source("rows-float32", ROWS), Source("rows-bfloat16", ROWS, ("-DBFLOAT16",))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing compiled in this process."""
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "kernels"
    forget()


def forget() -> None:
    """As in a new process."""
    for cached in (kernel, building.kernel_or_reason, building._folder_of_process):
        cached.cache_clear()


def compiler_script(folder: Path, lines: str) -> str:
    """A compiler that tells its version, and does something of its own otherwise."""
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo 1; exit; fi\n{lines}\n')
    path.chmod(0o755)
    return str(path)


def works(library: ctypes.CDLL) -> bool:
    return all(hasattr(library, name) for name in ("all_dots", "largest_rows", "set_pool"))


def test_compiled_files_are_found_again(cache: Path) -> None:
    assert works(kernel(FLOAT32)) and works(kernel(BFLOAT16))
    made = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(made) == 2 and cache.stat().st_mode & 0o777 == 0o700
    forget()
    assert works(kernel(FLOAT32)) and works(kernel(BFLOAT16))
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == made


def test_a_changed_header_is_another_kernel(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel(FLOAT32)
    [first] = cache.iterdir()
    headers = tmp_path / "headers"
    headers.mkdir()
    for path in building.HEADERS.glob("*.h"):
        (headers / path.name).write_text(f"/* other */\n{path.read_text()}")
    monkeypatch.setattr(building, "HEADERS", headers)
    forget()
    assert works(kernel(FLOAT32))
    assert len(list(cache.iterdir())) == 2 and first.exists()


@pytest.mark.parametrize("harm", ["cut", "changed", "empty"])
def test_damaged_file_is_made_anew(cache: Path, harm: str) -> None:
    kernel(FLOAT32)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.unlink()  # the loaded one stays as it is
    path.write_bytes({"cut": whole[:middle], "changed": changed, "empty": b""}[harm])
    forget()
    assert works(kernel(FLOAT32))
    assert [found.read_bytes() for found in cache.iterdir()] == [whole]


def test_two_processes_at_once(cache: Path) -> None:
    program = (
        "from sdlms.models.gating.compiled import SOURCES\n"
        "from sdlms.models.kernels.building import kernel\n"
        "print(all(kernel(source).largest_rows for source in SOURCES.values()) and 'both')"
    )
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in started] == ["both\n"] * 2
    assert sorted(path.name.split("-")[1] for path in cache.iterdir()) == ["bfloat16", "float32"]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "ziglang", None)  # as if it were not installed
    assert compilers() == []
    with pytest.raises(NoKernelError, match=r"^no C compiler was found \(\$CC, cc, gcc, clang"):
        kernel(FLOAT32)


def test_named_compiler_alone_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", f"'{tmp_path}/no such compiler' -m64")
    assert compilers() == [(f"{tmp_path}/no such compiler", "-m64")]
    with pytest.raises(NoKernelError, match="no such compiler cannot be run"):
        kernel(FLOAT32)


def test_compilers_of_the_path_come_before_ziglang(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    (tmp_path / "site" / "ziglang").mkdir(parents=True)
    (tmp_path / "site" / "ziglang" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    Path(compiler_script(tmp_path, "exit 1")).rename(tmp_path / "gcc")
    monkeypatch.setenv("PATH", str(tmp_path))
    ours = (sys.executable, "-m", "ziglang", "cc")
    assert compilers() == [(str(tmp_path / "gcc"),), ours]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("echo 'in file rows.c:'; echo 'rows.c:3: error: no vectors' >&2; exit 1", "no vectors"),
        ("exit 3", "exit code 3"),
        ("while [ $1 != -o ]; do shift; done; echo rubbish > $2", "invalid ELF|too short"),
        ("exec true", "No such file"),
        ('own=$PWD; cd /; rm -r "$own"; touch "$own"; exit 4', "exit code 4"),
    ],
    ids=["error", "silent", "rubbish", "nothing", "no folder to remove"],
)
def test_broken_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str, reason: str
) -> None:
    monkeypatch.setenv("CC", compiler_script(tmp_path, lines))
    with pytest.raises(NoKernelError, match=reason) as stopped:
        kernel(FLOAT32)
    assert "\n" not in str(stopped.value)


def test_next_compiler_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    Path(compiler_script(tmp_path, "exit 1")).rename(tmp_path / "cc")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert works(kernel(FLOAT32))


def test_slow_compiler_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building, "LONGEST_SECONDS", 1)
    monkeypatch.setenv("CC", compiler_script(tmp_path, "exec sleep 60"))
    with pytest.raises(NoKernelError, match="took longer than 1 s"):
        kernel(FLOAT32)


def test_a_stopped_compiler_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    """Its own children end with it."""
    monkeypatch.setattr(building, "LONGEST_SECONDS", 1)
    born = tmp_path / "born"
    monkeypatch.setenv("CC", compiler_script(tmp_path, f"sleep 60 & echo $! > {born}; wait"))
    with pytest.raises(NoKernelError, match="took longer than 1 s"):
        kernel(FLOAT32)
    deadline = time.monotonic() + 5
    while is_running(int(born.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(born.read_text()))
    assert not list(cache.iterdir())


def is_running(process: int) -> bool:
    """A process that ended and has not been waited for is none."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True)
    return listed.stdout.strip()[:1] not in (b"", b"Z")


def test_a_failure_is_kept_until_the_compiler_is_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    monkeypatch.setenv("CC", compiler_script(tmp_path, f"echo call >> {calls}; exit 1"))
    for source in (FLOAT32, FLOAT32, BFLOAT16):
        with pytest.raises(NoKernelError, match="exit code 1"):
            kernel(source)
    assert calls.read_text().split() == ["call"] * 2
    monkeypatch.delenv("CC")
    assert works(kernel(FLOAT32))


def test_an_unreadable_command_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc'")
    with pytest.raises(
        NoKernelError, match=r"^\$CC is \"gcc'\", no command \(No closing quotation"
    ):
        kernel(FLOAT32)


def test_relative_paths_are_those_of_the_callers_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    """The compiler runs in a folder of its own."""
    [real, *_] = compilers()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDLMS_CACHE", "cache")
    Path(compiler_script(tmp_path, f'exec {real[0]} "$@"')).rename(tmp_path / "mine")
    monkeypatch.setenv("CC", "./mine -O1")
    assert compilers() == [(str(tmp_path / "mine"), "-O1")]
    assert works(kernel(FLOAT32))
    monkeypatch.delenv("CC")
    (tmp_path / "mine").rename(tmp_path / "cc")
    monkeypatch.setenv("PATH", os.pathsep.join([".", os.environ["PATH"]]))
    assert compilers()[0] == (str(tmp_path / "cc"),)
    forget()
    assert works(kernel(FLOAT32))
    assert len(list(cache.iterdir())) == 2


def test_folders_of_killed_processes_are_removed(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for name in ("build-old", "build-new"):
        (cache / name).mkdir()
        (cache / name / "rows.so").touch()
    os.utime(cache / "build-old", (0, time.time() - building.OLD_SECONDS - 1))
    kernel(FLOAT32)
    assert [path.name for path in cache.glob("build-*")] == ["build-new"]


@pytest.mark.parametrize("place", ["a file", "open to others", "no home"])
def test_without_a_cache_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, place: str
) -> None:
    if place == "a file":
        cache.parent.touch()
    elif place == "open to others":
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    else:
        monkeypatch.delenv("SDLMS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    program = (
        "from sdlms.models.gating.compiled import SOURCES\n"
        "from sdlms.models.kernels.building import kernel\n"
        "from pathlib import Path\n"
        "library = kernel(next(iter(SOURCES.values())))\n"
        f"print(library.largest_rows and len(list(Path({str(temporary)!r}).iterdir())))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr
    assert not list(temporary.iterdir())  # it went with the process
    assert not cache.is_dir() or not list(cache.iterdir())

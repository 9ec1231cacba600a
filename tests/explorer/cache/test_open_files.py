import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from sdlms.explorer.cache.open_files import MOST_OPEN, OpenFiles
from sdlms.storage.row_layout import create_rows
from sdlms.storage.token_rows import TokenRows
from tests.storage.small_rows import LAYOUT, WHOLE, random_rows


def opener(folder: Path, name: str) -> Callable[[], TokenRows]:
    path = folder / f"{name}.h5"
    if not path.exists():
        create_rows(path, name, LAYOUT, 0)
    return lambda: TokenRows(path, name)


def n_open(folder: Path) -> int:
    """Descriptors of files in a folder that this process has."""
    return sum(Path(file.path).is_relative_to(folder) for file in psutil.Process().open_files())


def test_files_stay_open_but_not_too_many(tmp_path: Path) -> None:
    files = OpenFiles()
    for i in range(MOST_OPEN + 20):
        with files.using(str(i), opener(tmp_path, str(i))) as rows:
            assert rows is not None and rows.path.stem == str(i)
    assert n_open(tmp_path) == MOST_OPEN
    files.close()
    assert n_open(tmp_path) == 0


def test_a_file_is_opened_once(tmp_path: Path) -> None:
    files, n_opened = OpenFiles(), 0

    def opened() -> TokenRows:
        nonlocal n_opened
        n_opened += 1
        return opener(tmp_path, "c")()

    for _ in range(3):
        with files.using("c", opened), files.using("c", opened):
            pass
    assert n_opened == 1
    files.close()


def test_no_file_is_none(tmp_path: Path) -> None:
    files = OpenFiles()
    with files.using("c", lambda: None) as rows:
        assert rows is None
    assert not n_open(tmp_path)


def test_who_reads_a_removed_file_may_end(tmp_path: Path) -> None:
    files = OpenFiles()
    content = random_rows(WHOLE, 3, seed=0)
    with files.using("c", opener(tmp_path, "c")) as rows:
        assert rows is not None
        rows.write("whole", 0, content)
        files.remove("c", (tmp_path / "c.h5").unlink)
        assert rows.read("whole", range(3)).present.all()
        with files.using("c", opener(tmp_path, "c")) as fresh:
            assert fresh is not None and not fresh.read("whole", range(3)).present.any()
    assert n_open(tmp_path) == 1
    files.close()
    assert n_open(tmp_path) == 0


def test_files_in_use_are_not_closed_for_others(tmp_path: Path) -> None:
    files = OpenFiles()
    with files.using("first", opener(tmp_path, "first")) as rows:
        for i in range(2 * MOST_OPEN):
            with files.using(str(i), opener(tmp_path, str(i))):
                pass
        assert rows is not None and not rows.read("whole", [0]).present.any()
    files.close()


def test_while_one_is_opened_others_are_used(tmp_path: Path) -> None:
    files = OpenFiles()
    begun, gate = threading.Event(), threading.Event()
    gates = files._gates
    other = next(str(i) for i in range(9) if gates.of(str(i)) is not gates.of("slow"))

    def slowly() -> TokenRows:
        begun.set()
        assert gate.wait(30)
        return opener(tmp_path, "slow")()

    def use() -> None:
        with files.using("slow", slowly):
            pass

    with ThreadPoolExecutor(1) as thread:
        using = thread.submit(use)
        assert begun.wait(30)
        with files.using(other, opener(tmp_path, other)) as rows:
            assert rows is not None
        files.remove(other, (tmp_path / f"{other}.h5").unlink)
        gate.set()
        using.result()
    files.close()

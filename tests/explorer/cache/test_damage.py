"""The cache on bad disks: read-only, full, with flipped bytes, after a kill."""

import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sdlms.storage.conversations import write_conversation
from tests.explorer.cached_rows import (
    GROUPS,
    are_equal,
    fill,
    holds,
    obstruct,
    open_cache,
    random_rows,
    settle,
    small_cache,
)


def test_a_second_cache_on_the_folder_is_in_memory_only(tmp_path: Path) -> None:
    said: list[str] = []
    with open_cache(tmp_path) as first:
        fill(first, "c")
        second = small_cache(tmp_path, warn=said.append)
        assert len(said) == 1 and "in use by another explorer" in said[0]
        assert second.status()["memory_only"] and second.status()["warnings"] == said
        fill(second, "c", seed=1)
        second.close()
        assert holds(first, "c")
    with open_cache(tmp_path) as third:
        assert holds(third, "c")


def test_a_folder_that_cannot_be_one_means_memory_only(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    cache = small_cache(tmp_path / "file" / "cache", warn=said.append)
    fill(cache, "c")
    assert holds(cache, "c") and cache.status()["memory_only"]
    assert len(said) == 1 and "\n" not in said[0] and "memory only" in said[0]
    cache.close()


READ_ONLY = """
import os, sys
from pathlib import Path
from tests.explorer.cached_rows import random_rows, small_cache
rows = random_rows("logit", 3, 0)
if os.geteuid() == 0:
    os.setuid(65534)  # root writes everywhere
said = []
cache = small_cache(Path(sys.argv[1]), warn=said.append)
cache.save_record("c", {"a": 1})
cache.put("c", "logit", 0, rows)
assert cache.get("c", "logit", range(3)).present.all() and cache.record("c") == {"a": 1}
assert cache.status()["memory_only"]
cache.close()
assert len(said) == 1 and "Permission denied" in said[0], said
"""


def test_a_read_only_folder_means_memory_only() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        subprocess.run([sys.executable, "-c", READ_ONLY, name], check=True)
        assert not list(Path(name).iterdir())
        Path(name).chmod(0o755)


def test_a_full_disk_means_memory_only_and_nothing_is_lost_meanwhile(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_cache(tmp_path) as cache:
        fill(cache, "before")
        settle(cache)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            fill(cache, "after", seed=1)
            cache.save_record("before", {"name": "before", "seed": 0, "new": True})
            settle(cache)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        status = cache.status()
        assert status["memory_only"] and "File too large" in status["warnings"][0]
        assert holds(cache, "after", seed=1)
        fill(cache, "later", seed=2)
        assert holds(cache, "later", seed=2)
        assert cache.record("before") == {"name": "before", "seed": 0, "new": True}
        assert cache.ids() == ["after", "before", "later"]
        assert cache.delete("before") and cache.ids() == ["after", "later"]
    with open_cache(tmp_path) as cache:  # there was room again at the end
        assert cache.ids() == ["after", "later"]
        assert holds(cache, "after", seed=1) and holds(cache, "later", seed=2)


def test_a_flipped_byte_anywhere_gives_no_wrong_row(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.h5"))
    whole = path.read_bytes()
    generator = random.Random(0)
    places = generator.sample(range(len(whole)), 25)
    for group in GROUPS:
        for array in random_rows(group, 5, seed=0).values():
            at = whole.find(array[3].tobytes())
            places.append(at + generator.randrange(array[3].nbytes))
    n_flaws = 0
    for at in places:
        content = bytearray(whole)
        content[at] ^= 1 << generator.randrange(8)
        path.write_bytes(content)
        with open_cache(tmp_path) as cache:
            for group in GROUPS:
                found = cache.get("c", group, range(5))
                rows = {n: a[found.present] for n, a in random_rows(group, 5, seed=0).items()}
                assert are_equal({n: a[found.present] for n, a in found.arrays.items()}, rows)
                assert found.flaw == (not found.present.all())
                n_flaws += found.flaw
            assert cache.record("c") == {"name": "c", "seed": 0}
    assert n_flaws >= 15


@pytest.mark.parametrize("spoil", ["cut", "empty", "missing", "folder"])
def test_rows_that_cannot_be_read_are_put_anew(tmp_path: Path, spoil: str) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.h5"))
    content = {"cut": path.read_bytes()[:-2000], "empty": b""}
    path.unlink()
    if spoil in content:
        path.write_bytes(content[spoil])
    elif spoil == "folder":
        path.mkdir()
    with open_cache(tmp_path) as cache:
        found = cache.get("c", "logit", range(5))
        assert not found.present.any() and found.flaw == (spoil != "missing")
        assert not cache.present("c", "logit", 5).any()
        assert cache.record("c") == {"name": "c", "seed": 0}
        fill(cache, "c", seed=1)
        assert holds(cache, "c", seed=1)


def test_a_damaged_record_is_put_aside_and_told(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
    path = next(tmp_path.glob("*/c.json"))
    path.write_bytes(path.read_bytes().replace(b'"seed":0', b'"seed":7'))
    with open_cache(tmp_path) as cache:
        assert cache.record("c") is None and cache.ids() == []
        assert "c.json.damaged-1" in cache.status()["warnings"][0]
        assert not cache.get("c", "logit", range(5)).present.any()


WRITE_FOR_EVER = """
import sys
from itertools import count
from pathlib import Path
from tests.explorer.cached_rows import GROUPS, random_rows, settle, small_cache
cache = small_cache(Path(sys.argv[1]))
for i in count():
    name = f"c{i % 3}"
    for group in GROUPS:
        cache.put(name, group, 4 * (i // 3), random_rows(group, 4, seed=i))
    cache.save_record(name, {"n_tokens": 4 * (i // 3) + 4})
    if i == 240:
        settle(cache)
        print("well under way", flush=True)
"""


def test_after_a_kill_records_and_rows_are_right(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
    with open_cache(tmp_path) as cache:
        assert cache.ids() == ["c0", "c1", "c2"]
        for k, name in enumerate(cache.ids()):
            record = cache.record(name)
            assert record is not None and record["n_tokens"] >= 320
            for group in GROUPS:
                found = cache.get(name, group, range(320 + 400))
                assert found.present[:320].all() and not found.flaw
                for turn in range(180):
                    span = slice(4 * turn, 4 * turn + 4)
                    here = found.present[span]
                    rows = random_rows(group, 4, seed=3 * turn + k)
                    rows = {n: a[here] for n, a in rows.items()}
                    assert are_equal({n: a[span][here] for n, a in found.arrays.items()}, rows)
        assert not cache.status()["warnings"]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_stray_entry_leaves_the_others_alone(tmp_path: Path, kind: str) -> None:
    with open_cache(tmp_path) as cache:
        for name in "cd":
            fill(cache, name)
    folder = next(tmp_path.glob("*/c.h5")).parent
    (folder / "c.h5").unlink()
    for name in ("aaaa.h5", "bbbb.json", "c.h5", ".e.json.partial", ".key.json.damaged-1"):
        obstruct(folder / name, kind)
    with open_cache(tmp_path) as cache:
        assert not cache.status()["memory_only"] and cache.ids() == ["c", "d"]
        assert holds(cache, "d") and cache.record("bbbb") is None
        assert not cache.get("c", "logit", range(5)).present.any()
        fill(cache, "c")
        fill(cache, "aaaa")
        settle(cache)
        assert not cache.status()["memory_only"]
    with open_cache(tmp_path) as cache:
        assert all(holds(cache, name) for name in ("aaaa", "c", "d"))


def test_a_full_disk_is_read(tmp_path: Path) -> None:
    with open_cache(tmp_path) as cache:
        for name in "cd":
            fill(cache, name)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with open_cache(tmp_path) as cache:
            cache.truncate("c", 5)  # there is nothing to forget
            assert holds(cache, "c") and not cache.status()["memory_only"]
            fill(cache, "new")
            settle(cache)
            assert cache.status()["memory_only"]
            assert all(holds(cache, name) for name in ("c", "d", "new"))
            cache.truncate("d", 5)
            assert cache.present("d", "logit", 5).all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with open_cache(tmp_path) as cache:
        assert cache.ids() == ["c", "d"] and holds(cache, "d")


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"c"'])
def test_a_record_that_is_none_is_put_aside(tmp_path: Path, content: bytes) -> None:
    with open_cache(tmp_path) as cache:
        fill(cache, "c")
        fill(cache, "d")
    path = next(tmp_path.glob("*/c.json"))
    write_conversation(path, "c", content)
    with open_cache(tmp_path) as cache:
        assert cache.record("c") is None and cache.ids() == ["d"]
        assert "no JSON object" in cache.status()["warnings"][0]
        assert not cache.get("c", "logit", range(5)).present.any() and holds(cache, "d")
    assert path.with_name("c.json.damaged-1").exists()


@pytest.mark.parametrize("in_memory_only", [True, False])
def test_what_is_put_aside_is_forgotten(tmp_path: Path, in_memory_only: bool) -> None:
    with open_cache(None if in_memory_only else tmp_path) as cache:
        fill(cache, "c")
        settle(cache)
        cache.put_aside("c", "it has no tokens")
        assert cache.ids() == [] and cache.record("c") is None
        assert not cache.get("c", "logit", range(5)).present.any()
        status = cache.status()
        assert (status["memory_only"], status["warnings"] == []) == (in_memory_only,) * 2


NOT_OURS = """
import os, sys
from pathlib import Path
from tests.explorer.cached_rows import fill, holds, open_cache, settle
folder = Path(sys.argv[1])
with open_cache(None) as cache:
    fill(cache, "a")  # imports what others may not
if os.geteuid() == 0:
    os.setuid(65534)  # root opens everything
with open_cache(folder) as cache:
    for name in "abc":
        fill(cache, name)
next(folder.glob("*/a.h5")).chmod(0)
next(folder.glob("*/b.h5")).chmod(0o444)
with open_cache(folder) as cache:
    assert not cache.get("a", "logit", range(5)).present.any()
    assert holds(cache, "b") and holds(cache, "c")
    for name in "ab":
        fill(cache, name, seed=1)
    settle(cache)
    assert not cache.status()["memory_only"]
with open_cache(folder) as cache:
    assert holds(cache, "a", seed=1) and holds(cache, "b", seed=1) and holds(cache, "c")
"""


def test_files_that_may_not_be_opened_are_made_anew() -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        subprocess.run([sys.executable, "-c", NOT_OURS, name], check=True)

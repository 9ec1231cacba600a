"""What was made once is found again, by what it was made of, and by nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdlms.acts.cache import spilled
from sdlms.acts.file_source import FileSource
from sdlms.acts.handle import Acts
from sdlms.acts.live_source import live_source
from sdlms.acts.opening import load_acts
from sdlms.errors import UserError
from tests.acts.samples import Counting, acts_of, file_of, rows_with, sample, write_sample
from tests.models.tiny_models import random_model

LENGTHS = [3, 0, 7, 5]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(file_of(tmp_path / "a.h5", sample(LENGTHS, dtype=torch.bfloat16)))


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def scans(counting: Counting, work: Callable[[], Acts]) -> int:
    """How often the source is scanned, and its tokens read, by this."""
    counting.calls.clear()
    work()
    return sum(call != "fingerprint" for call in counting.calls)


def assert_equal(found: Acts, expected: Acts) -> None:
    a, b = found.realize(), expected.realize()
    assert (a.dims, a.shape, a.layers, a.pools) == (b.dims, b.shape, b.layers, b.pools)
    assert a.document_ids == b.document_ids
    torch.testing.assert_close(a.tensor, b.tensor, rtol=0, atol=0, equal_nan=True)
    assert (a.mask is None and b.mask is None) or torch.equal(a.mask, b.mask)  # type: ignore[arg-type]


# Where


def test_nothing_is_written_beside_the_source(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "artifacts/run"
    run.mkdir(parents=True)
    acts = load_acts(write_sample(run / "activations.h5", sample(LENGTHS))).mean_pool()
    acts.cache().realize()
    assert [path.name for path in (tmp_path / "artifacts").rglob("*")] == ["run", "activations.h5"]
    (entry,) = entries(folder)
    assert entry.suffix == ".h5" and entry.parent.parent == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", "cache"]


# Hits

SERVED: dict[str, tuple[Callable[[Acts], Acts], Callable[[Acts], Acts]]] = {
    "the same": (lambda a: a.mean_pool(), lambda a: a.mean_pool()),
    "said in another order": (
        lambda a: a.last_pool().mean_pool("l"),
        lambda a: a.mean_pool("l").last_pool(),
    ),
    "one layer of all": (lambda a: a.mean_pool(), lambda a: a.select_layers(3).mean_pool()),
    "layers the other way": (
        lambda a: a.mean_pool(),
        lambda a: a.mean_pool().select_layers([4, 1]),
    ),
    "fewer documents": (lambda a: a.max_pool(), lambda a: a.slice_batch([3, 0]).max_pool()),
    "documents by another name": (
        lambda a: a.slice_batch([3, 2, 0]).mean_pool(),
        lambda a: a.slice_batch(slice(None, None, -1)).slice_batch([-1, 1]).mean_pool(),
    ),
    "a document twice": (lambda a: a.mean_pool(), lambda a: a.slice_batch([2, 2]).mean_pool()),
    "pooled later": (lambda a: a, lambda a: a.select_layers([4]).max_pool()),
    "layers pooled later": (
        lambda a: a.select_layers([1, 3]),
        lambda a: a.select_layers([3, 1]).max_pool("l"),
    ),
    "one layer, pooled later": (
        lambda a: a.select_layers(3),
        lambda a: a.select_layers(3).last_pool(),
    ),
    "another type": (lambda a: a.mean_pool(), lambda a: a.mean_pool().cast("float16")),
    "pooled layers": (
        lambda a: a.select_layers([3, 1]).max_pool("l").mean_pool(),
        lambda a: a.select_layers([3, 1]).max_pool("l").mean_pool().slice_batch([2]),
    ),
    "nothing of it": (lambda a: a.mean_pool(), lambda a: a.slice_batch([]).mean_pool()),
}


@pytest.mark.parametrize("what", SERVED)
def test_what_was_kept_serves_it(counting: Counting, folder: Path, what: str) -> None:
    kept, wanted = (build(acts_of(counting)) for build in SERVED[what])
    assert scans(counting, kept.cache) > 0
    found = []
    assert scans(counting, lambda: found.append(wanted.cache()) or found[0].realize()) == 0
    assert_equal(found[0], wanted)
    assert found[0].dtype == wanted.dtype
    assert len(entries(folder)) == 1


MISSED: dict[str, tuple[Callable[[Acts], Acts], Callable[[Acts], Acts]]] = {
    "another pool": (lambda a: a.mean_pool(), lambda a: a.max_pool()),
    "not pooled": (lambda a: a.mean_pool(), lambda a: a),
    "another layer": (
        lambda a: a.select_layers([1]).mean_pool(),
        lambda a: a.select_layers(3).mean_pool(),
    ),
    "more documents": (
        lambda a: a.slice_batch([0, 2]).mean_pool(),
        lambda a: a.slice_batch([0, 3]).mean_pool(),
    ),
    "the axis of one layer": (lambda a: a.select_layers(3), lambda a: a.select_layers([3])),
    "other pooled layers": (
        lambda a: a.select_layers([1, 3]).mean_pool("l"),
        lambda a: a.select_layers([1, 4]).mean_pool("l"),
    ),
    "fewer pooled layers": (
        lambda a: a.mean_pool("l"),
        lambda a: a.select_layers([1, 3]).mean_pool("l"),
    ),
    "one of the pooled layers": (lambda a: a.mean_pool("l"), lambda a: a.select_layers(1)),
    "an order that matters": (
        lambda a: a.mean_pool("l").max_pool(),
        lambda a: a.max_pool().mean_pool("l"),
    ),
}


@pytest.mark.parametrize("what", MISSED)
def test_what_was_kept_does_not_serve_something_else(
    counting: Counting, folder: Path, what: str
) -> None:
    kept, wanted = (build(acts_of(counting)) for build in MISSED[what])
    kept.cache()
    assert scans(counting, wanted.cache) > 0
    assert_equal(wanted.cache(), wanted)
    assert len(entries(folder)) == 2


def test_a_cached_handle_goes_on(counting: Counting) -> None:
    acts = acts_of(counting)
    cached = acts.select_layers([1, 4]).cache()
    assert_equal(
        cached.mean_pool().cast("float16").slice_batch([2, 0]),
        acts.select_layers([1, 4]).mean_pool().cast("float16").slice_batch([2, 0]),
    )
    assert cached.dtype == torch.bfloat16  # as it was stored
    assert acts.mean_pool().cache().dtype == torch.float32
    moved = acts.mean_pool().to("meta").cache()
    assert moved.realize().tensor.device.type == "meta"


def test_a_type_is_given_after_the_cache(counting: Counting, folder: Path) -> None:
    acts = acts_of(counting).mean_pool()
    half = acts.cast("bfloat16").cache()
    assert half.dtype == torch.bfloat16
    assert_equal(half, acts.cast("bfloat16"))
    found: list[Acts] = []
    assert scans(counting, lambda: found.append(acts.cache()) or found[0].realize()) == 0
    assert_equal(found[0], acts)  # nothing was lost to the first type
    assert len(entries(folder)) == 1


@pytest.mark.parametrize("which", [[1, 1], [2, 0, 2]])
def test_a_document_that_is_there_twice(counting: Counting, which: list[int]) -> None:
    acts = acts_of(counting).slice_batch(which).mean_pool()
    assert_equal(acts.cache(), acts)
    assert scans(counting, acts.cache) == 0


def test_documents_of_one_name_are_not_mixed_up(folder: Path) -> None:
    """`tokens_of` gives equal texts equal ids."""
    acts = Acts(torch.arange(6.0).view(3, 2), "bh", documents=["a", "a", "b"])
    for which in ([0], [1], [1, 0], [0, 1], [2, 1], [0, 1, 2]):
        chosen = acts.slice_batch(which)
        for _ in range(2):
            assert_equal(chosen.cache(), chosen)


# Keys


def test_a_file_that_changed_is_another(tmp_path: Path, folder: Path) -> None:
    path = write_sample(tmp_path / "a.h5", sample(LENGTHS))
    load_acts(path).mean_pool().cache()
    path.unlink()
    write_sample(path, sample(LENGTHS, seed=1))
    other = load_acts(path).mean_pool()
    assert_equal(other.cache(), other)
    assert len(entries(folder)) == 2


def test_a_run_is_known_by_its_content(tmp_path: Path, folder: Path) -> None:
    one = Counting(file_of(tmp_path / "a.h5", sample(LENGTHS)))
    for source, digest in (
        (one, "1"),
        (Counting(file_of(tmp_path / "b.h5", sample(LENGTHS))), "1"),
    ):
        assert isinstance(source.source, FileSource)
        source.source.digest = digest
        expected = 0 if source is not one else 1
        assert min(1, scans(source, acts_of(source).mean_pool().cache)) == expected
    assert len(entries(folder)) == 1


def test_tensors_are_known_by_their_bytes(folder: Path) -> None:
    x = torch.randn(3, 4)
    Acts(x, "bh").slice_batch([0, 1]).cache()
    Acts(x.clone(), "bh").slice_batch([1]).cache()
    assert len(entries(folder)) == 1
    Acts(x + 1, "bh").slice_batch([1]).cache()
    assert len(entries(folder)) == 2


def test_a_model_runs_again_only_for_something_new(folder: Path) -> None:
    model, rows = random_model("gpt2"), rows_with([5, 0, 9, 2])

    def forwards(build: Callable[[Acts], Acts], *args: Any) -> int:
        source = live_source(*args)
        acts = build(acts_of(source))
        cached = acts.cache()
        n_forwards = source.n_forwards
        assert_equal(cached, acts)
        return n_forwards

    assert forwards(lambda a: a.mean_pool(), model, rows, "all", "resid_post") > 0
    for build in (lambda a: a.mean_pool(), lambda a: a.select_layers(1).mean_pool()):
        assert forwards(build, model, rows, "all", "resid_post") == 0
    assert forwards(lambda a: a.mean_pool(), model, rows, [2], "resid_post") == 0
    masked = rows_with([5, 0, 9, 2], np.arange(16) > 2)
    others = rows_with([5, 9, 0, 2])
    for args in (
        (model, rows, "all", "resid_pre"),
        (model, masked, "all", "resid_post"),
        (model, others, "all", "resid_post"),
        (model, rows, "all", "resid_post", "float32"),
        (random_model("gpt2", settings={"n_layer": 4}), rows, "all", "resid_post"),
    ):
        assert forwards(lambda a: a.mean_pool(), *args) > 0
    with torch.no_grad():
        model.h[0].mlp.c_fc.bias[0] += 1
    assert forwards(lambda a: a.mean_pool(), model, rows, "all", "resid_post") > 0


# A path of the user's


def test_a_path_is_used_again_or_refused(counting: Counting, tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "mine/kept.h5"
    acts = acts_of(counting).mean_pool()
    assert scans(counting, lambda: acts.cache(path)) > 0
    assert scans(counting, lambda: acts.cache(str(path))) == 0
    assert scans(counting, lambda: acts.select_layers(3).cache(path)) == 0
    assert_equal(acts.select_layers(3).cache(path), acts.select_layers(3))
    before = path.read_bytes()
    for other in (acts_of(counting).max_pool(), acts_of(counting), Acts(torch.ones(1, 2), "bh")):
        with pytest.raises(UserError, match=r"holds other activations. Choose another name"):
            other.cache(path)
    assert path.read_bytes() == before
    assert not folder.exists()


def test_a_path_that_holds_something_else_is_one_clear_line(
    counting: Counting, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("mine")
    with pytest.raises(UserError, match="cannot read"):
        acts_of(counting).cache(tmp_path / "x.txt")
    saved = acts_of(counting).save(tmp_path / "saved.h5")
    with pytest.raises(UserError, match="holds other activations"):
        acts_of(counting).cache(tmp_path / "saved.h5")
    assert saved.realize().shape == (4, 3, 7, 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        acts_of(counting).cache(tmp_path / "file/x.h5")


def test_a_cache_folder_that_cannot_be_written_is_one_clear_line(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "a.h5"))
    with pytest.raises(UserError, match="cannot write"):
        acts_of(counting).mean_pool().cache()


# Accidents


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "newer", "attribute", "folder"])
def test_a_damaged_entry_is_passed_over_and_made_anew(
    counting: Counting, folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    import h5py

    acts = acts_of(counting).mean_pool()
    acts.cache()
    (entry,) = entries(folder)
    if damage == "truncated":
        entry.write_bytes(entry.read_bytes()[:1000])
    elif damage in ("newer", "attribute"):
        with h5py.File(entry, "a") as file:
            if damage == "newer":
                file.attrs["version"] = 99
            else:
                del file.attrs["layers"]
    elif damage == "folder":
        (entry.parent / "x.h5").mkdir()
    else:
        entry.write_bytes(b"" if damage == "empty" else b"text")
    assert_equal(acts.cache(), acts)
    assert "passed over in the cache" in caplog.text or damage == "folder"
    other = acts_of(counting).max_pool()
    assert_equal(other.cache(), other)
    caplog.clear()
    assert scans(counting, acts.cache) == 0


PROGRAM = """
import json, sys, torch
from sdlms.acts import Acts
torch.set_num_threads(1)
x = torch.arange(40.0 * 3 * 50 * 8).view(40, 3, 50, 8)
acts = Acts(x, "blsh", torch.ones(40, 50)).mean_pool()
expected = acts.realize().tensor
print("ready", flush=True)
sys.stdin.readline()
kept = [acts.cache(), acts.cache(sys.argv[1])]
print("cached", flush=True)
sys.stdin.readline()
print(json.dumps([torch.equal(one.realize().tensor, expected) for one in kept]))
"""


@pytest.mark.slow
def test_processes_that_keep_the_same_at_once_do_no_harm(tmp_path: Path, folder: Path) -> None:
    """Each still reads what it was given when all have written."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "x.h5")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
        )
        for _ in range(3)
    ]  # fmt: skip

    def step(expected: str | None) -> None:
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.strip() == expected if expected else json.loads(line) == [True, True]
        for process in processes if expected else ():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    for expected in ("ready", "cached", None):
        step(expected)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(entries(folder)) == 1


def test_whoever_comes_second_takes_what_the_first_made(
    tmp_path: Path, folder: Path, counting: Counting
) -> None:
    class Beaten(Counting):
        def scan(self, *args: object) -> None:
            acts_of(self.source).mean_pool().cache()  # another process, meanwhile
            super().scan(*args)  # type: ignore[arg-type]

    source = Beaten(counting.source)
    acts = acts_of(source).mean_pool()
    assert_equal(acts.cache(), acts_of(counting).mean_pool())
    assert len(entries(folder)) == 1


def test_a_failure_leaves_no_entry(folder: Path) -> None:
    class Failing(Counting):
        def scan(self, *args: object) -> None:
            raise KeyError

    source = Failing(Acts(torch.ones(2, 3), "bh")._source)
    with pytest.raises(KeyError):
        acts_of(source).slice_batch([0]).cache()
    assert entries(folder) == []


def test_a_spill_lives_as_long_as_its_block(counting: Counting, folder: Path) -> None:
    plan = acts_of(counting).select_layers([4, 1])._plan
    with spilled(counting, plan) as source:
        assert source.description.layers == (4, 1)
        assert_equal(acts_of(source), acts_of(counting).select_layers([4, 1]))
        assert len(entries(folder)) == 1
    assert list(folder.iterdir()) == []


def test_what_lies_in_a_file_already_is_not_copied(tmp_path: Path, folder: Path) -> None:
    path = write_sample(tmp_path / "a.h5", sample(LENGTHS, dtype=torch.bfloat16))
    acts = load_acts(path).slice_batch([2, 0]).cast("float32")
    assert_equal(acts.cache(), acts)
    assert entries(folder) == []
    assert_equal(acts.cache(tmp_path / "named.h5"), acts)
    assert (tmp_path / "named.h5").exists()
    assert_equal(acts.mean_pool().cache(), acts.mean_pool())
    assert len(entries(folder)) == 1

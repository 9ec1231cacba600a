"""What is saved is loaded again, bit by bit and with all that is known of it; or nothing is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts.description import whole
from sdlms.acts.handle import Acts
from sdlms.acts.live_source import live_source
from sdlms.acts.opening import load_acts
from sdlms.acts.saving import save_plan
from sdlms.errors import UserError
from tests.acts.samples import Counting, acts_of, file_of, rows_with, sample, write_sample
from tests.models.tiny_models import random_model

LENGTHS = [3, 0, 7, 5]
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
SHAPES: dict[str, Callable[[Acts], Acts]] = {
    "blsh": lambda a: a,
    "blsh, documents": lambda a: a.slice_batch([3, 1, 0]),
    "blsh, layers": lambda a: a.select_layers([3, 1]),
    "blsh of one": lambda a: a.select_layers([3]),
    "bsh": lambda a: a.select_layers(3),
    "bsh, layers pooled": lambda a: a.select_layers([4, 1]).max_pool("l"),
    "blh": lambda a: a.mean_pool(),
    "blh, layers": lambda a: a.last_pool().select_layers([4, 3]),
    "bh": lambda a: a.select_layers(4).sum_pool(),
    "bh, layers pooled": lambda a: a.select_layers([3, 1]).max_pool("l").mean_pool(),
    "no documents": lambda a: a.slice_batch([]),
    "no tokens": lambda a: a.slice_batch([1]),
    "no documents, pooled": lambda a: a.slice_batch([]).mean_pool(),
}


def assert_same(found: Acts, expected: Acts) -> None:
    """Everything that a handle knows, and every bit."""
    a, b = found.realize(), expected.realize()
    for name in ("dims", "shape", "dtype", "site", "layers", "document_ids", "document_tasks"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.pools == expected.pools
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert torch.equal(a.tensor.view(torch.uint8), b.tensor.view(torch.uint8))
    assert (a.mask is None) == (b.mask is None)
    assert a.mask is None or torch.equal(a.mask, b.mask)  # type: ignore[arg-type]
    one, other = found._source.description.header, expected._source.description.header
    for name in ("model", "revision", "activation_function", "gated", "control"):
        assert getattr(one, name) == getattr(other, name), name
    if "s" in found.dims:
        ids = [
            acts._source.ids(
                whole(acts._source.description, acts._plan.chosen(acts._source.description))
            )
            for acts in (found, expected)
        ]
        assert np.array_equal(*ids)


@pytest.mark.parametrize("what", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_everything_is_loaded_again(tmp_path: Path, what: str, dtype: torch.dtype) -> None:
    acts = acts_of(file_of(tmp_path / "a.h5", sample(LENGTHS, dtype=dtype)))
    acts = SHAPES[what](acts).cast(dtype)
    returned = acts.save(tmp_path / "new/b.h5")
    for found in (returned, load_acts(tmp_path / "new/b.h5")):
        assert_same(found, acts)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.h5"]
    # A copy of the copy, and one by way of memory, hold the same.
    assert_same(returned.save(tmp_path / "c.h5"), returned)
    in_memory = acts.realize().save(tmp_path / "d.h5")
    assert torch.equal(
        in_memory.realize().tensor.view(torch.uint8), acts.realize().tensor.view(torch.uint8)
    )
    assert (in_memory.layers, in_memory.pools, in_memory.dims) == (
        acts.layers, acts.pools, acts.dims,
    )  # fmt: skip


@pytest.mark.parametrize("what", ["bsh, layers pooled", "bh, layers pooled"])
def test_pooled_layers_can_be_worked_on_again(tmp_path: Path, what: str) -> None:
    acts = SHAPES[what](acts_of(file_of(tmp_path / "a.h5", sample(LENGTHS))))
    loaded = acts.save(tmp_path / "b.h5")
    part = loaded.slice_batch([2, 0]).cast("bfloat16")
    assert_same(part.save(tmp_path / "c.h5"), part)
    assert part.layers == acts.layers
    if "s" in acts.dims:
        pooled = loaded.mean_pool()
        assert_same(pooled.save(tmp_path / "d.h5"), pooled)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", ["bh", "bsh", "blh", "blsh"])
def test_tensors_are_loaded_again(tmp_path: Path, dims: str, dtype: torch.dtype) -> None:
    sizes = {"b": 3, "l": 2, "s": 4, "h": 5}
    tensor = torch.randn([sizes[axis] for axis in dims]).to(dtype)
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]]) if "s" in dims else None
    layers = [6, 2] if "l" in dims else [6]
    acts = Acts(tensor, dims, mask, layers, ["x", "ü", "z"])
    found = acts.save(tmp_path / "a.h5")
    # What lies behind a document's last token is padding, and was not kept.
    assert (found.layers, found.document_ids, found.site) == (
        tuple(layers),
        ["x", "ü", "z"],
        "acts",
    )
    expected = tensor.clone()
    if mask is not None:
        assert found.lengths.tolist() == [4, 0, 2] and found.mask is not None
        assert torch.equal(found.mask, mask.bool())
        kept = torch.arange(4) < torch.tensor([[4], [0], [2]])
        expected = expected * kept.view(3, *([1] if "l" in dims else []), 4, 1)
        ids = found._source.ids(whole(found._source.description, np.array([0])))
        assert ids.tolist() == [-1] * 4  # nobody knows them
    assert torch.equal(found.realize().tensor, expected)


def test_a_model_is_saved_as_capture_would(tmp_path: Path) -> None:
    model, rows = random_model("gpt2"), rows_with([5, 0, 9], np.arange(14) % 3 > 0)
    acts = acts_of(live_source(model, rows, "all", "mlp_act"))
    found = acts.save(tmp_path / "a.h5")
    assert_same(found, acts)
    assert found.dtype == torch.float16
    assert found._source.description.header.activation_function == "gelu_new"


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    tensor = torch.tensor([[torch.nan, torch.inf], [-torch.inf, -0.0]])
    for dtype in DTYPES:
        found = Acts(tensor.to(dtype), "bh").save(tmp_path / f"{dtype}.h5").realize().tensor
        assert torch.equal(found.view(torch.uint8), tensor.to(dtype).view(torch.uint8))
    empty = Acts(torch.ones(1, 2, 3), "bsh", torch.zeros(1, 2)).mean_pool()
    assert empty.save(tmp_path / "empty.h5").realize().tensor.isnan().all()


def test_a_save_reads_each_row_once(tmp_path: Path) -> None:
    counting = Counting(file_of(tmp_path / "a.h5", sample(LENGTHS)))
    acts_of(counting).save(tmp_path / "b.h5")
    assert counting.rows_seen == [(layer, sum(LENGTHS)) for layer in (1, 3, 4)]


def test_the_same_result_is_the_same_file(tmp_path: Path) -> None:
    acts = acts_of(file_of(tmp_path / "a.h5", sample(LENGTHS))).mean_pool()
    acts.save(tmp_path / "b.h5")
    acts.save(tmp_path / "c.h5")
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    acts = acts_of(file_of(tmp_path / "a.h5", sample(LENGTHS)))
    for path in (tmp_path / "a.h5", tmp_path):
        with pytest.raises(UserError, match=r"exists already. Choose another name, or remove it"):
            acts.save(path)
    assert_same(load_acts(tmp_path / "a.h5"), acts)


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    source = file_of(tmp_path / "a.h5", sample(LENGTHS))

    class Slow(Counting):
        def fingerprint(self) -> str:
            return ""

        def scan(self, *args: object) -> None:
            (tmp_path / "b.h5").write_text("mine")
            super().scan(*args)  # type: ignore[arg-type]

    with pytest.raises(UserError, match="was written by another process meanwhile"):
        acts_of(Slow(source)).save(tmp_path / "b.h5")
    assert (tmp_path / "b.h5").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_failing_save_leaves_nothing(tmp_path: Path) -> None:
    source = file_of(tmp_path / "a.h5", sample(LENGTHS))

    class Failing(Counting):
        def scan(self, *args: object) -> None:
            super().scan(*args)  # type: ignore[arg-type]
            raise KeyError

    with pytest.raises(KeyError):
        acts_of(Failing(source)).save(tmp_path / "b.h5")
    tensor = torch.full((1, 2), 1e6)
    with pytest.raises(UserError, match="beyond the range of float16"):
        Acts(tensor, "bh").cast("float16").save(tmp_path / "b.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*x\.h5 \((File exists|Not a directory)\)"):
        Acts(torch.ones(1, 2), "bh").save(tmp_path / "file/x.h5")


SAVE = """
import sys, resource, time, torch
from pathlib import Path
from sdlms.acts import Acts
from sdlms.errors import UserError
what, path = sys.argv[1], Path(sys.argv[2])
acts = Acts(torch.ones(300, 4, 100, 16), "blsh", torch.ones(300, 100))
if what == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
    try:
        acts.save(path)
    except UserError as error:
        sys.exit(0 if "\\n" not in str(error) and "cannot write" in str(error) else f"{error}")
    sys.exit("it fitted")
from sdlms.acts.execution import Job
put = Job._put
def slow(self, *args):
    put(self, *args)
    print("half", flush=True)
    time.sleep(60)
Job._put = slow
acts.save(path)
"""


@pytest.mark.parametrize("limit", [2_000, 100_000, 5_000_000])
def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SAVE, "full", str(tmp_path / "x.h5"), str(limit)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_save_leaves_no_file_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with subprocess.Popen(
        [sys.executable, "-c", SAVE, "slow", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.01)
    assert not path.exists()
    assert not list(tmp_path.glob("*.h5"))
    Acts(torch.ones(1, 2), "bh").save(path)  # what it left does not stand in the way
    assert load_acts(path).shape == (1, 2)


def test_the_origin_is_written_down(tmp_path: Path) -> None:
    from sdlms.storage.row_file import find_rows

    source = file_of(tmp_path / "a.h5", sample(LENGTHS))
    save_plan(source, acts_of(source)._plan, tmp_path / "b.h5", "abc")
    assert find_rows(tmp_path / "b.h5").header.origin == "abc"


def test_a_file_without_dims_is_blsh(tmp_path: Path) -> None:
    """Files that were captured before pooled ones were thought of."""
    import h5py

    path = write_sample(tmp_path / "a.h5", sample(LENGTHS))
    expected = load_acts(path).realize().tensor
    with h5py.File(path, "a") as file:
        for name in ("dims", "pools", "origin"):
            del file.attrs[name]
    found = load_acts(path)
    assert (found.dims, found.pools) == ("blsh", ())
    assert torch.equal(found.realize().tensor, expected)

"""The text of a plan, and that what it promises is so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdlms.acts.explain import result_shape
from sdlms.acts.handle import Acts
from sdlms.acts.live_source import live_source
from tests.acts.samples import acts_of, file_of, rows_with, sample, write_sample
from tests.models.tiny_models import random_model

GOLDEN: dict[str, tuple[Callable[[Acts], Acts], str]] = {
    "file": (
        lambda a: a,
        """
source    a.h5 resid_post: blsh, 3 layers, 4 documents, 1,300 tokens, 3 units, bfloat16
result    blsh [4, 3, 1000, 3] bfloat16, 72.0 kB
read      24,700 bytes, layer by layer
peak      79.8 kB""",
    ),
    "one layer of some": (
        lambda a: a.select_layers(3).slice_batch([0, 1]),
        """
source    a.h5 resid_post: blsh, 3 layers, 4 documents, 1,300 tokens, 3 units, bfloat16
layers    3
documents 2 (1,000 tokens)
result    bsh [2, 1000, 3] bfloat16, 12.0 kB
read      7,000 bytes, layer by layer
peak      18.0 kB""",
    ),
    "mean": (
        lambda a: a.mean_pool(),
        """
source    a.h5 resid_post: blsh, 3 layers, 4 documents, 1,300 tokens, 3 units, bfloat16
pool      mean s, in float32, as it is read
result    blh [4, 3, 3] float32, 144 B
read      27,300 bytes, layer by layer
peak      7.9 kB""",
    ),
    "last": (
        lambda a: a.last_pool().cast("float16").to("cpu"),
        """
source    a.h5 resid_post: blsh, 3 layers, 4 documents, 1,300 tokens, 3 units, bfloat16
pool      last s, in float32, as it is read
cast      float16
device    cpu
result    blh [4, 3, 3] float16, 72 B
read      1,354 bytes, layer by layer
peak      90 B""",
    ),
    "layers pooled, order kept": (
        lambda a: a.max_pool("l").mean_pool(),
        """
source    a.h5 resid_post: blsh, 3 layers, 4 documents, 1,300 tokens, 3 units, bfloat16
pool      max l, in float32, as it is read
pool      mean s, in float32, as it is read
result    bh [4, 3] float32, 48 B
read      24,700 bytes, block by block, all layers of it
peak      39.0 kB""",
    ),
}


def text_of(acts: Acts) -> str:
    return "\n" + acts.explain()


@pytest.fixture
def acts(tmp_path: Path) -> Acts:
    data = sample([1000, 0, 200, 100], dtype=torch.bfloat16)
    return acts_of(file_of(tmp_path / "a.h5", data))


@pytest.mark.parametrize("what", GOLDEN)
def test_the_plan_of_a_file(acts: Acts, what: str) -> None:
    build, expected = GOLDEN[what]
    assert text_of(build(acts)) == expected


def test_the_order_of_what_commutes_does_not_show(acts: Acts) -> None:
    one = acts.slice_batch([2, 0]).mean_pool("l").cast("bfloat16").last_pool().to("cpu")
    other = acts.to("cpu").last_pool().cast("bfloat16").mean_pool("l").slice_batch([2, 0])
    assert one.explain() == other.explain()


def test_the_plan_of_a_tensor() -> None:
    acts = Acts(torch.zeros(2, 5, 4), "bsh", torch.ones(2, 5))
    assert text_of(acts.max_pool()) == (
        """
source    tensor: bsh, 2 documents, 10 tokens, 4 units, float32
pool      max s, in float32, as it is read
result    bh [2, 4] float32, 32 B
peak      192 B"""
    )
    assert text_of(Acts(torch.zeros(2, 4), "bh").slice_batch([1])) == (
        """
source    tensor: bh, 2 documents, 4 units, float32
documents 1
result    bh [1, 4] float32, 16 B
peak      32 B"""
    )


def test_the_plan_of_a_model() -> None:
    model = random_model("gpt2")
    source = live_source(model, rows_with([5, 9, 2]), "all", "mlp_act")
    source.budget = 9
    assert text_of(acts_of(source).mean_pool().select_layers([2, 0])) == (
        """
source    model gpt2 mlp_act: blsh, 3 layers, 3 documents, 16 tokens, 64 units, float16
layers    2, 0
pool      mean s, in float32, as it is read
result    blh [3, 2, 64] float32, 1.5 kB
forward   one pass over 16 tokens, every layer in it
peak      2.7 kB"""
    )


def test_the_shape_is_that_of_the_result(acts: Acts) -> None:
    for one in (
        acts.slice_batch([2, 3]),
        acts.slice_batch([]),
        acts.slice_batch([1]),
        acts.mean_pool(),
        acts.select_layers(1).last_pool(),
        acts.max_pool("l"),
    ):
        assert result_shape(one._source, one._plan) == tuple(one.realize().tensor.shape)


PROGRAM = """
import os, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from sdlms.acts import Acts, load_acts
from sdlms.acts.explain import peak_bytes

def high():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

def measure(small, big, build, work):
    small, big = build(load_acts(small)), build(load_acts(big))
    work(small)  # libraries and kernels
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the highest starts anew
    before = high()
    work(big)
    print(high() - before, peak_bytes(big._source, big._plan), flush=True)

small, *paths = sys.argv[1:]
for big in paths:
    for build, work in (
        (lambda acts: acts.mean_pool(), lambda acts: acts.realize()),
        (lambda acts: acts.mean_pool(), lambda acts: [None for _ in acts.iter_layers()]),
        (lambda acts: acts.max_pool("l").mean_pool(), lambda acts: acts.realize()),
    ):
        child = os.fork()  # so that each has a heap in which nothing was freed before
        if child == 0:
            measure(small, big, build, work)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
"""


def held_and_predicted(small: Path, *big: Path) -> list[tuple[int, int]]:
    """Of each file, three ways to pool it."""
    command = [sys.executable, "-c", PROGRAM, str(small), *map(str, big)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(int(held), int(said)) for held, said in map(str.split, done.stdout.splitlines())]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the high-water mark of /proc")
def test_the_predicted_peak_bounds_what_is_held(tmp_path: Path) -> None:
    """60 MB through a pool: what is held is what was predicted, however many layers there are."""
    small = write_sample(tmp_path / "small.h5", sample([50] * 4, n_units=512))
    kind = {"n_units": 512, "dtype": torch.bfloat16}
    few = write_sample(tmp_path / "few.h5", sample([100] * 150, layers=(0, 1), **kind))  # type: ignore[arg-type]
    many = write_sample(tmp_path / "many.h5", sample([100] * 150, layers=(0, 1, 2, 3), **kind))  # type: ignore[arg-type]
    assert many.stat().st_size > 60e6
    slack = 3e6  # the interpreter's own
    found = held_and_predicted(small, few, many)
    assert len(found) == 6
    for held, predicted in found:
        # What glibc keeps of one buffer may not serve the next: at most two.
        assert predicted / 2 <= held <= 2 * predicted + slack

"""Counting which units fire together, rotating them, and taking the strongest pairs as edges."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.timing import Report, Rounds, alternate
from benchmarks.workload import Size, mixed_lengths
from sdlms.models.device import set_threads
from sdlms.numerics.association import LEAST_JOINT, Edges, Strata, select_edges
from sdlms.numerics.coactivation import add_coactivations_, circular_shift

BLOCK = 4096  # tokens that are read at a time
DOCUMENT_TOKENS = 42  # of those that are strata of the selection
MOST = (200, 100_000)  # edges
OURS, INT8, FLOAT32 = "add_coactivations_", "bare int8 product", "bare float32 product"
FULL_SORT = "evidence of all pairs, full sort"


@dataclass(frozen=True)
class Shape:
    """How many units and tokens are counted; float32 products take a tenth of the tokens."""

    n_units: int
    n_tokens: int


SHAPES = {"full": Shape(8192, 102_400), "smoke": Shape(320, 4_000)}


def drawn(shape: Shape, density: float) -> NDArray[np.uint8]:
    """Independent units: `[token, unit]`, 0 or 1."""
    generator = np.random.default_rng(0)
    firing = np.empty((shape.n_tokens, shape.n_units), dtype=np.uint8)
    for first in range(0, shape.n_tokens, BLOCK):
        block = firing[first : first + BLOCK]
        np.less(generator.random(block.shape, dtype=np.float32), density, out=block.view(bool))
    return firing


def counted(firing: NDArray[np.uint8]) -> Tensor:
    """Our counts, block by block."""
    counts = torch.zeros(firing.shape[1], firing.shape[1], dtype=torch.int32)
    for first in range(0, len(firing), BLOCK):
        add_coactivations_(counts, firing[first : first + BLOCK])
    return counts


@pytest.mark.parametrize("kind", ["neurons, 10 % fire", "latents, 32 fire"])
def test_counting(kind: str, size: Size, publish: Callable[[Report], None]) -> None:
    """Against one product of all units with all units, which is twice what is needed."""
    threads, shape = set_threads(0), SHAPES[size.name]
    firing = drawn(shape, 0.1 if kind.startswith("neurons") else 32 / 8192)
    tokens = torch.from_numpy(firing).view(torch.int8)
    part = tokens[: shape.n_tokens // 10].float()
    found: dict[str, Tensor] = {}

    def keep(side: str, counts: Tensor) -> None:
        found[side] = counts

    sides = {
        OURS: lambda: keep(OURS, counted(firing)),
        INT8: lambda: keep(INT8, torch._int_mm(tokens.t(), tokens)),
        FLOAT32: lambda: keep(FLOAT32, part.t() @ part),
    }
    counted(firing[:BLOCK])
    rounds = alternate(sides, size.slow_rounds)
    report = Report(f"co-activation counts, {kind}, {shape.n_units} units")
    _add_counting(report, rounds, threads, shape)
    publish(report)
    assert torch.equal(torch.triu(found[OURS]), torch.triu(found[INT8]))
    few = torch.triu(counted(firing[: len(part)]))
    assert torch.equal(few, torch.triu(found[FLOAT32]).int())


def _add_counting(report: Report, rounds: Rounds, threads: int, shape: Shape) -> None:
    """Figures and ratios; float32 per token."""
    report.add_rounds(rounds)
    report.facts |= {
        "threads": threads,
        "tokens": shape.n_tokens,
        "tokens of the float32 product": shape.n_tokens // 10,
        "count matrix, MB": shape.n_units**2 * 4 / 1e6,
    }
    wall, cpu = rounds.wall, rounds.cpu
    report.add_ratio(f"{OURS} / {INT8}", wall[OURS], wall[INT8], "<= 1.5")
    report.add_ratio(f"{OURS} / {INT8}, CPU seconds", cpu[OURS], cpu[INT8])
    whole = [10 * seconds for seconds in wall[FLOAT32]]
    report.add_ratio(f"{OURS} / {FLOAT32}, per token", wall[OURS], whole, "<= 1.5")


@pytest.mark.parametrize("density", [0.1, 32 / 8192], ids=["neurons", "latents"])
def test_memory_of_counting(density: float, size: Size, publish: Callable[[Report], None]) -> None:
    """What one block of tokens adds to the process, beside the counts and the block itself."""
    shape = Shape(SHAPES[size.name].n_units, BLOCK)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        added = fresh.submit(added_megabytes, shape, density).result()
    report = Report(f"memory of counting, density {density:.3f}", unit="MB")
    report.figures["count matrix"] = [shape.n_units**2 * 4 / 1e6]
    report.figures["block of tokens"] = [shape.n_units * shape.n_tokens / 1e6]
    report.figures["beside both"] = [added]
    publish(report)


def added_megabytes(shape: Shape, density: float) -> float:
    """Most memory that this process has while it counts, less what it had before."""
    set_threads(0)
    counted(drawn(Shape(64, 128), density))
    firing, process, seen = drawn(shape, density), psutil.Process(), [0]
    counts = torch.ones(shape.n_units, shape.n_units, dtype=torch.int32)
    before, done = process.memory_info().rss, threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(2):
        add_coactivations_(counts, firing)
    done.set()
    watcher.join()
    return (seen[0] - before) / 1e6


def test_rotating(size: Size, publish: Callable[[Report], None]) -> None:
    """Documents of 20 to 500 tokens, against the product of the same block."""
    threads = set_threads(0)
    offsets = np.concatenate([[0], np.cumsum(mixed_lengths(BLOCK))])
    firing = drawn(Shape(SHAPES[size.name].n_units // 4, int(offsets[-1])), 0.1)
    tokens, generator = torch.from_numpy(firing).view(torch.int8), np.random.default_rng(0)
    shifted = [firing]

    def shift() -> None:
        for _ in range(10):
            shifted[0] = circular_shift(firing, offsets, generator)

    def product() -> None:
        for _ in range(10):
            torch._int_mm(tokens.t(), tokens)

    sides = {"circular_shift": shift, INT8: product}
    for work in sides.values():
        work()
    rounds = alternate(sides, size.rounds)
    report = Report(f"rotating {len(firing):,} tokens of {firing.shape[1]} units, 10 times")
    report.add_rounds(rounds)
    report.facts |= {"threads": threads, "documents": len(offsets) - 1}
    report.add_ratio("shift / product", rounds.wall["circular_shift"], rounds.wall[INT8], "<= 1")
    publish(report)
    for first, last in pairwise(offsets):
        assert np.array_equal(shifted[0][first:last].sum(0), firing[first:last].sum(0))


def planted(shape: Shape) -> NDArray[np.uint8]:
    """Eight modules whose units fire more often on three tenths of the tokens: `[token, unit]`."""
    generator, firing = np.random.default_rng(0), drawn(shape, 0.07)
    driven = generator.random((shape.n_tokens, 8)) < 0.3
    for first in range(0, shape.n_tokens, BLOCK):
        block, active = firing[first : first + BLOCK], driven[first : first + BLOCK]
        more = generator.random(block.shape, dtype=np.float32) < 0.1
        block |= more & active[:, np.arange(shape.n_units) % 8]
    return firing


def test_selecting(size: Size, publish: Callable[[Report], None]) -> None:
    """Against evidence of all pairs, sorted: the original way, with the same evidence."""
    threads, shape = set_threads(0), SHAPES[size.name]
    firing = planted(Shape(shape.n_units, shape.n_tokens // 4))
    counts = counted(firing)
    parts = np.array_split(firing, len(firing) // DOCUMENT_TOKENS)
    strata = Strata(
        np.stack([part.sum(0, dtype=np.int64) for part in parts]),
        np.array([len(part) for part in parts]),
    )
    found: dict[str, Edges] = {}
    order: list[NDArray[np.int64]] = []

    def select(most: int) -> None:
        found[f"{most:,} edges"] = select_edges(counts, strata, most, significant_only=False).edges

    def sort() -> dict[str, float]:
        evidence = evidence_of_all(counts, strata)
        start = time.perf_counter()
        order[:] = [np.argsort(evidence, axis=None)[::-1][: 3 * MOST[-1]].copy()]
        return {"sorting": time.perf_counter() - start}

    sides = {f"{most:,} edges": lambda most=most: select(most) for most in MOST}
    rounds = alternate({**sides, FULL_SORT: sort}, size.slow_rounds)
    report = Report(f"graph of {shape.n_units} units, {len(parts)} documents")
    report.add_rounds(rounds)
    report.facts |= {"threads": threads, "tokens": len(firing)}
    for name in sides:
        report.add_ratio(f"full sort / {name}", rounds.wall[FULL_SORT], rounds.wall[name], ">= 10")
        sorting = rounds.parts[FULL_SORT]["sorting"]
        report.add_ratio(f"its sorting alone / {name}", sorting, rounds.wall[name])
    n_significant = select_edges(counts, strata, 1, significant_only=True).n_significant
    report.facts["significant pairs"] = n_significant
    publish(report)
    for edges in found.values():
        assert_same(edges, order[0], shape.n_units)


def evidence_of_all(counts: Tensor, strata: Strata) -> NDArray[np.float64]:
    """The symmetric matrix, some rows at a time; minus infinity for what is no candidate."""
    upper = np.triu(counts.numpy(), k=1)
    joint = upper + upper.T
    n_units, n_tokens, totals = len(joint), strata.n_tokens.sum(), strata.counts.sum(0)
    found = np.full(joint.shape, -np.inf)
    sizes = strata.n_tokens[:, None].astype(np.float64)
    spread = strata.counts * (sizes - strata.counts)
    for rows in np.array_split(np.arange(n_units), max(n_units // 64, 1)):
        seen, one = joint[rows].astype(np.float64), totals[rows][:, None]
        expected = (strata.counts[:, rows] / sizes).T @ strata.counts
        variance = (spread[:, rows] / (sizes**2 * (sizes - 1))).T @ spread
        g2, precision = np.zeros_like(seen), np.zeros_like(seen)
        cells = ((0, 0, 1), (one, 0, -1), (0, totals, -1), (n_tokens - one, -totals, 1))
        for plus, more, sign in cells:
            cell, awaited = plus + more + sign * seen, plus + more + sign * expected
            g2 += 2 * np.where(cell > 0, cell * np.log(np.maximum(cell, 1) / awaited), 0)
            precision += 1 / awaited
        evidence = np.sqrt(np.maximum(g2, 0) / (precision * variance))
        candidate = (seen >= LEAST_JOINT) & (seen > expected)
        found[rows] = np.where(candidate, evidence, -np.inf)
    return found


def assert_same(edges: Edges, order: NDArray[np.int64], n_units: int) -> None:
    """They are the first pairs of the full sort, but for those that tie with the last of them."""
    first, second = np.divmod(order, n_units)
    expected = order[first < second][: len(edges.first)]
    untied = edges.evidence > edges.evidence[-1] * (1 + 1e-9)
    ours = (edges.first * n_units + edges.second)[untied]
    assert len(ours) > 0
    assert len(np.setdiff1d(ours, expected)) == 0

"""Training steps of sparse autoencoders against sae-lens' own trainer, and what they learn."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.sae_sides import (
    LENS,
    LENS_AUTOCAST,
    OURS,
    OURS_BF16,
    PRODUCTS,
    Data,
    Shape,
    gap,
    learners_of,
    products_of,
    start_of,
    steps_of,
)
from benchmarks.timing import Report, Rounds, alternate
from benchmarks.workload import Size
from sdlms.models.device import set_threads
from sdlms.sae.recipe import Kind

SHAPES = {
    "full": [Shape(512, 4096, 4096, n_steps=1), Shape(128, 1024, 4096, n_steps=6)],
    "smoke": [Shape(32, 256, 512, n_steps=2), Shape(16, 128, 512, n_steps=2)],
}
QUALITY = {"full": Shape(64, 512, 1024, n_steps=400), "smoke": Shape(32, 256, 256, n_steps=60)}
# What few latents are active saves depends on how few: both are measured.
STATES: list[tuple[Kind, bool]] = [("standard", False), ("standard", True), ("topk", False)]
TARGETS = {"standard": (1.3, 4.0, 1.7), "topk": (2.0, 2.0, 2.0)}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("kind", "trained"), STATES)
def test_steps(
    kind: Kind, trained: bool, number: int, size: Size, publish: Callable[[Report], None]
) -> None:
    """The same updates on the same batches; in float32 the weights must agree after them."""
    threads = set_threads(0)
    shape = SHAPES[size.name][number]
    data = Data.drawn(shape, n_batches=3)
    recipe = shape.recipe(kind, lr=1e-5)
    learners = learners_of(recipe, start_of(recipe, data, trained))
    sides = {name: steps_of(learner, data, shape.n_steps) for name, learner in learners.items()}
    is_dense = kind == "standard" and not trained  # all five products are really done
    for name in learners.keys() & PRODUCTS.keys() if is_dense else ():
        sides[_products(name)] = products_of(shape, PRODUCTS[name])
    for work in sides.values():
        work()
    rounds = alternate(sides, size.rounds)
    state = "few latents active" if trained else "fresh" if kind == "standard" else "k 32"
    report = Report(f"{kind}, {state}, d {shape.d_in}, w {shape.width}, batch {shape.batch_size}")
    report.add_rounds(rounds)
    _add_ratios(report, rounds, kind)
    latents = {name: round(learner.losses().n_active, 1) for name, learner in learners.items()}
    difference = gap(learners[OURS], learners[LENS])
    report.facts |= {
        "threads": threads,
        "steps": shape.n_steps,
        "active latents": latents,
        "relative difference of the weights": difference,
    }
    publish(report)
    assert difference < 1e-4


def _products(side: str) -> str:
    """The side that does the five products of a side alone."""
    return f"five products {side.removeprefix('ours ')}"


def _add_ratios(report: Report, rounds: Rounds, kind: Kind) -> None:
    """Against sae-lens, and the share that products have."""
    wall, (fp32, bf16, autocast) = rounds.wall, TARGETS[kind]
    report.add_ratio(f"{LENS} / {OURS}", wall[LENS], wall[OURS], f">= {fp32}")
    if OURS_BF16 in wall:
        report.add_ratio(f"{LENS} / {OURS_BF16}", wall[LENS], wall[OURS_BF16], f">= {bf16}")
        pair = (wall[LENS_AUTOCAST], wall[OURS_BF16])
        report.add_ratio(f"{LENS_AUTOCAST} / {OURS_BF16}", *pair, f">= {autocast}")
    for side in PRODUCTS:
        if (name := _products(side)) in wall:
            report.add_ratio(f"{name} / {side}", wall[name], wall[side], ">= 0.65")


@pytest.mark.parametrize("kind", ["standard", "topk"])
def test_quality(kind: Kind, size: Size, publish: Callable[[Report], None]) -> None:
    """Equal start, steps and order, then tokens none has seen: FVU within 0.5 %, L0 within 1 %."""
    set_threads(0)
    shape = QUALITY[size.name]
    data, held_out = Data.drawn(shape, 40), torch.cat(Data.drawn(shape, 4, seed=1).batches)
    variance = float((held_out - torch.cat(data.batches).mean(0)).square().sum())
    recipe = shape.recipe(kind, lr=1e-3)
    report = Report(f"{kind}, {shape.n_steps} steps, d {shape.d_in}, w {shape.width}", unit="")
    for name, learner in learners_of(recipe, start_of(recipe, data, trained=False)).items():
        steps_of(learner, data, shape.n_steps)()
        sums = learner.evaluate(held_out)
        report.figures[f"{name}: FVU"] = [sums.squared_error / variance]
        report.figures[f"{name}: L0"] = [sums.n_active / sums.n_tokens]
    for side in (OURS, OURS_BF16):
        if f"{side}: FVU" in report.figures:
            for what in ("FVU", "L0"):
                pair = (report.figures[f"{side}: {what}"], report.figures[f"{LENS}: {what}"])
                report.add_ratio(f"{what}, {side} / {LENS}", *pair)
    publish(report)
    for name, (ratio,) in report.ratios.items():
        assert ratio == pytest.approx(1, abs=0.005 if name.startswith("FVU") else 0.01)

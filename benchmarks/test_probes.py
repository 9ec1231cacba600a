"""Probes against probelab 0.1: many fits, sequence probes, every token; and pooling alone."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.acts_data import Shape
from benchmarks.probe_sides import EPOCHS, few_documents, few_layers
from benchmarks.sides import column, largest_gap, needs_probelab, run_sides
from benchmarks.timing import Report, alternate
from benchmarks.workload import Size, run_command
from sdlms.acts import Acts, load_acts
from sdlms.numerics.metrics import auroc
from sdlms.numerics.pooling import pool_documents

POOL_LENGTHS = (64, 193)
Problem = tuple[Tensor, Tensor]


@needs_probelab
def test_tokens(size: Size, acts_folder: Path, publish: Callable[[Report], None]) -> None:
    """Logistic regression on every token of one layer; coefficients must agree."""
    sides = ["ours: tokens", "probelab: tokens"]
    results = run_sides(sides, acts_folder, size, size.slow_rounds)
    report = Report("token level")
    _add_sides(report, sides, results)
    ours, theirs = (np.array(results[side][0]["weight"]) for side in sides)
    gap = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    report.facts["largest gap of coefficients"] = gap
    publish(report)
    assert results[sides[0]][0]["converged"]
    assert gap <= 1e-3
    assert largest_gap(results[sides[0]][0]["auroc"], results[sides[1]][0]["auroc"]) <= 1e-4


@needs_probelab
def test_sequence_probes(
    size: Size, shape: Shape, acts_folder: Path, publish: Callable[[Report], None]
) -> None:
    """Attention, multimax and gated bipolar probes on four layers, the same number of epochs.

    They start from other random numbers, so only chance is excluded.
    """
    sides = ["ours: sequence probes", "probelab: sequence probes"]
    results = run_sides(sides, acts_folder, size, size.slow_rounds)
    report = Report("sequence probes")
    _add_sides(report, sides, results)
    report.facts |= {
        "documents": few_documents(shape),
        "layers": len(few_layers(shape)),
        "epochs": EPOCHS,
        "auroc": {side: float(np.mean(results[side][0]["auroc"])) for side in sides},
    }
    publish(report)
    every = [value for side in sides for value in results[side][0]["auroc"]]
    assert len(every) == 2 * 3 * len(few_layers(shape))
    assert all(0 <= value <= 1 for value in every)
    if size.name == "full":
        assert min(report.facts["auroc"].values()) > 0.6


def _add_sides(
    report: Report, sides: list[str], results: dict[str, list[dict[str, object]]]
) -> None:
    """Seconds, peak memory and bytes of two sides, ours first."""
    for name, scale, unit in (
        ("seconds", 1, ""),
        ("peak_bytes", 1e9, " GB"),
        ("bytes_read", 1e9, " GB"),
    ):
        found = [[v / scale for v in column(results, side, name)] for side in sides]  # type: ignore[arg-type]
        for side, values in zip(sides, found, strict=True):
            report.figures[f"{side}, {name}{unit}"] = values
        report.add_ratio(f"{name}, probelab / ours", found[1], found[0])


@needs_probelab
@pytest.mark.parametrize("data", ["random", "embedded"])
def test_logistic_fits(
    data: str, size: Size, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Many logistic fits: at full convergence, and scikit-learn's L-BFGS at its own tolerance."""
    from probelab import Activations
    from probelab.probes import Logistic

    from sdlms.probes.logistic_fit import fit_logistic
    from sdlms.probes.workers import spread

    problems = random_problems(size) if data == "random" else embedded_problems(size, tmp_path)
    cut = len(problems[0][0]) * 4 // 5
    learned = [(x[:cut], y[:cut]) for x, y in problems]
    found: dict[str, list[Tensor]] = {}

    def ours() -> None:
        fits = spread(lambda p: fit_logistic(*p), learned, torch.get_num_threads())
        found["ours"] = [fit.weight / fit.std for fit in fits]

    def lbfgs() -> None:
        fits = spread(lambda p: lbfgs_alone(*p), learned, torch.get_num_threads())
        found["scikit-learn's L-BFGS"] = list(fits)

    def probelab() -> None:
        found["probelab"] = [
            probe.linear.weight[0].detach().double() / probe.scaler_std
            for x, y in problems
            for probe in [
                Logistic().fit(Activations.from_tensor(x[:cut], dims="bh"), y[:cut].long())
            ]
        ]

    sides = {"ours": ours, "scikit-learn's L-BFGS": lbfgs, "probelab": probelab}
    for work in sides.values():
        work()
    rounds = alternate(sides, size.rounds)
    exact = [newton(x[:cut], y[:cut]) for x, y in problems]
    report = Report(f"logistic fits, {data} activations")
    report.add_rounds(rounds)
    for side in ("ours", "scikit-learn's L-BFGS"):
        report.add_ratio(f"probelab / {side}", rounds.wall["probelab"], rounds.wall[side], ">= 10")
    for side in sides:
        gaps = [coefficient_gap(w, e) for w, e in zip(found[side], exact, strict=True)]
        report.facts[f"{side}: coefficients, largest gap to Newton"] = max(gaps)
        aurocs = [
            abs(held_out_auroc(x, y, cut, w) - held_out_auroc(x, y, cut, e))
            for (x, y), w, e in zip(problems, found[side], exact, strict=True)
        ]
        report.facts[f"{side}: AUROC, largest gap to Newton"] = max(aurocs)
    report.facts["problems"] = f"{len(problems)} of {cut} x {problems[0][0].shape[1]}"
    publish(report)
    assert report.facts["ours: coefficients, largest gap to Newton"] <= 1e-3
    assert report.facts["ours: AUROC, largest gap to Newton"] <= (
        1e-4 if data == "embedded" else 2e-4
    )


def random_problems(size: Size) -> list[Problem]:
    """Gaussian units, one direction of which says something."""
    generator = torch.Generator().manual_seed(0)
    n_documents, n_units = (5000, 512) if size.name == "full" else (250, 32)
    problems = []
    for _ in range(4):
        x = torch.randn(n_documents, n_units, generator=generator)
        noise = torch.randn(n_documents, generator=generator)
        direction = torch.randn(n_units, generator=generator) / n_units**0.5
        problems.append((x, x @ direction + noise > 0))
    return problems


def embedded_problems(size: Size, folder: Path) -> list[Problem]:
    """Mean neurons of every layer of the embedded model; each task against the rest."""
    limit = "20000" if size.name == "full" else "2000"
    run = run_command("capture", folder, "--layers", "all", "--max-tokens", limit)
    acts = load_acts(run).mean_pool()
    assert_pooled_as_eagerly(run, acts)
    order = np.random.default_rng(0).permutation(acts.n_documents)
    tasks = np.array(acts.document_tasks)[order]
    return [
        (layer.tensor[torch.from_numpy(order)], torch.from_numpy(tasks == task))
        for _, layer in acts.iter_layers()
        for task in sorted(set(tasks))
    ]


def assert_pooled_as_eagerly(run: Path, acts: Acts) -> None:
    """Compare with loading all of a layer, and a loop over documents in float64."""
    with h5py.File(run / "activations.h5") as file:
        offsets, mask = file["/tokens/offsets"][:], file["/tokens/mask"][:].astype(bool)
        for layer, pooled in acts.iter_layers():
            rows = file[f"/mlp_act/layer_{layer}"][:].astype(np.float64)
            means = [rows[a:b][mask[a:b]].mean(0) for a, b in pairwise(offsets)]
            assert np.abs(pooled.tensor.numpy() - np.array(means)).max() <= 1e-5


def lbfgs_alone(x: Tensor, y: Tensor) -> Tensor:
    """Coefficients of raw units by scikit-learn as it comes, on standardised float32."""
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0, correction=0)
    std[std == 0] = 1
    model = LogisticRegression(max_iter=1000).fit(((x - mean) / std).numpy(), y.numpy())
    return torch.from_numpy(model.coef_[0]).double() / std


def newton(x: Tensor, y: Tensor) -> Tensor:
    """Coefficients of raw units, by scikit-learn's Newton solver in float64."""
    from sklearn.linear_model import LogisticRegression

    exact = x.double()
    std = exact.std(0, correction=0)
    std[std == 0] = 1
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(((exact - exact.mean(0)) / std).numpy(), y.numpy())
    return torch.from_numpy(model.coef_[0]) / std


def coefficient_gap(weight: Tensor, exact: Tensor) -> float:
    """Largest difference, as a share of the largest coefficient."""
    return float((weight - exact).abs().max() / exact.abs().max())


def held_out_auroc(x: Tensor, y: Tensor, cut: int, weight: Tensor) -> float:
    """AUROC of documents that were not trained on."""
    return auroc((x[cut:].double() @ weight).numpy(), y[cut:].numpy())


@needs_probelab
def test_pooling(size: Size, publish: Callable[[Report], None]) -> None:
    """Mean over the tokens of each document, bfloat16, one thread."""
    from probelab.pool import mean

    n_documents = 250 if size.name == "full" else 10
    lengths = np.random.default_rng(0).integers(*POOL_LENGTHS, n_documents)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    acts = torch.randn(int(offsets[-1]), 512).bfloat16()
    kept, flat = np.ones(len(acts), dtype=bool), torch.ones(len(acts), dtype=torch.bool)
    places = torch.from_numpy(offsets)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = pool_documents(acts, offsets, kept, "mean")

    def probelab() -> None:
        found["probelab"] = mean(acts, flat, offsets=places)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours(), probelab()
    rounds = alternate({"ours": ours, "probelab": probelab}, 4 * size.rounds)
    torch.set_num_threads(threads)
    exact = torch.stack([piece.double().mean(0) for piece in torch.split(acts, lengths.tolist())])
    report = Report("pooling 32k tokens of 512 units")
    report.add_rounds(rounds)
    report.add_ratio("probelab / ours", rounds.wall["probelab"], rounds.wall["ours"], ">= 10")
    errors = {side: float((pooled.double() - exact).abs().max()) for side, pooled in found.items()}
    report.facts["largest error"] = errors
    publish(report)
    assert errors["ours"] <= 1e-6

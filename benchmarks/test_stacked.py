"""Probes trained together, in one stack and one pass of the data, against one after another."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.timing import Report, alternate
from benchmarks.workload import Size
from sdlms.acts import Acts
from sdlms.numerics.splits import TEST, TRAIN, VALIDATION
from sdlms.probes.attention import AttentionNetwork, AttentionSettings
from sdlms.probes.batches import ActsBatches
from sdlms.probes.gated_bipolar import GatedBipolarNetwork, GatedBipolarSettings
from sdlms.probes.lesson import Lesson
from sdlms.probes.multimax import MultiMaxNetwork, MultiMaxSettings
from sdlms.probes.network import Network
from sdlms.probes.targets import Split, Targets
from sdlms.probes.training import train

N_LABELS = 6
EPOCHS = 1
NETWORKS: dict[str, Network] = {
    "attention": AttentionNetwork(AttentionSettings(max_epochs=EPOCHS)),
    "multimax": MultiMaxNetwork(MultiMaxSettings(max_epochs=EPOCHS)),
    "gated_bipolar": GatedBipolarNetwork(GatedBipolarSettings(max_epochs=EPOCHS)),
}


def data_of(size: Size) -> tuple[Acts, NDArray[np.bool_]]:
    """Three layers of random documents of about 100 tokens, and six labels."""
    n_documents, n_units = (192, 512) if size.name == "full" else (40, 16)
    generator = np.random.default_rng(0)
    lengths = generator.integers(80, 121, n_documents)
    mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
    seeded = torch.Generator().manual_seed(0)
    acts = torch.randn(n_documents, 3, int(lengths.max()), n_units, generator=seeded)
    return Acts(acts, dims="blsh", mask=mask), generator.random((N_LABELS, n_documents)) < 0.4


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_stack_against_one_after_another(
    kind: str, size: Size, publish: Callable[[Report], None]
) -> None:
    """Three layers and six labels, one epoch; the losses must be the same."""
    acts, labels = data_of(size)
    roles = np.full((1, acts.n_documents), TRAIN, dtype=np.int8)
    roles[0, ::4], roles[0, 1::4] = VALIDATION, TEST
    lesson = Lesson(ActsBatches(acts), Targets(labels), Split((0,), roles))
    found: dict[str, NDArray[np.float64]] = {}

    def stack() -> None:
        found["stack"] = train(NETWORKS[kind], lesson).best_loss

    def alone() -> None:
        losses = []
        for layer in acts.layers:
            data = ActsBatches(acts.select_layers(layer))
            for label in labels:
                single = replace(lesson, data=data, targets=Targets(label[None]))
                losses.append(train(NETWORKS[kind], single).best_loss[0])
        found["alone"] = np.array(losses)

    sides = {"stack": stack, "alone": alone}
    for work in sides.values():
        work()
    rounds = alternate(sides, size.slow_rounds)
    report = Report(f"{kind}, 3 layers x {N_LABELS} labels")
    report.add_rounds(rounds)
    report.add_ratio("one after another / stack", rounds.wall["alone"], rounds.wall["stack"])
    publish(report)
    assert np.abs(found["stack"] - found["alone"]).max() <= 1e-5

"""The sides of the probe benchmarks that train: sequence probes over layers, and tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.acts_data import OURS, PROBELAB, Shape, labels_of, n_train
from sdlms.acts import load_acts
from sdlms.numerics.metrics import auroc
from sdlms.numerics.splits import TEST, TRAIN, VALIDATION
from sdlms.probes.attention import AttentionNetwork, AttentionSettings
from sdlms.probes.batches import ActsBatches
from sdlms.probes.gated_bipolar import GatedBipolarNetwork, GatedBipolarSettings
from sdlms.probes.lesson import Lesson
from sdlms.probes.logistic import LogisticProbe
from sdlms.probes.multimax import MultiMaxNetwork, MultiMaxSettings
from sdlms.probes.network import Network
from sdlms.probes.targets import Split, Targets
from sdlms.probes.trained import predict_documents
from sdlms.probes.training import train

EPOCHS = 4
N_LAYERS = 4
Result = dict[str, Any]


def few_documents(shape: Shape) -> int:
    """Training goes over these several times."""
    return shape.documents // 5


def few_layers(shape: Shape) -> list[int]:
    """Evenly spread."""
    return list(range(0, shape.layers, max(shape.layers // N_LAYERS, 1)))[:N_LAYERS]


def roles_of(n_documents: int) -> NDArray[np.int8]:
    """`[1, document]`: the last fifth is tested, a fifth of the rest decides when to stop."""
    roles = np.full(n_documents, TRAIN, dtype=np.int8)
    roles[: n_documents * 4 // 5 : 5] = VALIDATION
    roles[n_documents * 4 // 5 :] = TEST
    return roles[None]


def ours_probes(folder: Path, shape: Shape) -> Result:
    """All layers of a kind in one stack, from disk."""
    n_documents = few_documents(shape)
    truth = labels_of(shape)[:n_documents] == 1
    acts = load_acts(folder / OURS).select_layers(few_layers(shape))
    data = ActsBatches(acts.slice_batch(slice(n_documents)))
    lesson = Lesson(data, Targets(truth[None]), Split((0,), roles_of(n_documents)))
    test = np.flatnonzero(lesson.split.roles[0] == TEST)
    networks: list[Network] = [
        AttentionNetwork(AttentionSettings(max_epochs=EPOCHS)),
        MultiMaxNetwork(MultiMaxSettings(max_epochs=EPOCHS)),
        GatedBipolarNetwork(GatedBipolarSettings(max_epochs=EPOCHS)),
    ]
    found = []
    for network in networks:
        trained = train(network, lesson)
        scores = predict_documents(trained, data, test, lambda _: None)
        found += [auroc(row, truth[test]) for row in scores]
    return {"auroc": found}


def probelab_probes(folder: Path, shape: Shape) -> Result:
    """One probe after another, on activations in memory."""
    from probelab import Activations
    from probelab.probes import Attention, GatedBipolar, MultiMax
    from probelab.storage import load_hdf5

    acts = load_hdf5(str(folder / PROBELAB), layers=few_layers(shape))
    n_documents = few_documents(shape)
    first = n_documents * 4 // 5
    labels, found = torch.from_numpy(labels_of(shape)), []
    truth = (labels[first:n_documents] == 1).numpy()
    for kind in (Attention, MultiMax, GatedBipolar):
        for _, layer in acts.iter_layers():
            parts = []
            for documents in (range(first), range(first, n_documents)):
                start, stop = layer.offsets[documents.start], layer.offsets[documents.stop]
                offsets = layer.offsets[documents.start : documents.stop + 1] - start
                parts.append(Activations.from_flat(layer.data[start:stop], offsets, dims="bsh"))
            probe = kind(n_epochs=EPOCHS, seed=0, cast="float32").fit(parts[0], labels[:first])
            found.append(auroc(probe.predict(parts[1]).float().numpy(), truth))
    return {"auroc": found}


def ours_tokens(folder: Path, shape: Shape) -> Result:
    """Logistic regression on every token of one layer, read in passes."""
    first = n_train(shape)
    acts = load_acts(folder / OURS).select_layers(shape.layers // 2)
    truth = labels_of(shape) == 1
    probe = LogisticProbe().fit(acts.slice_batch(slice(first)), truth[:first].tolist())
    tested = acts.slice_batch(slice(first, None))
    scores = probe.predict(tested)
    kept = ~scores.isnan()
    labels = np.repeat(truth[first:], tested.lengths)
    assert probe.result is not None
    weight = probe.result.weight / probe.result.std
    return {
        "auroc": [auroc(scores[kept].numpy(), labels)],
        "weight": weight.tolist(),
        "converged": probe.result.converged,
    }


def probelab_tokens(folder: Path, shape: Shape) -> Result:
    """The same on activations in memory."""
    from probelab import Activations
    from probelab.probes import Logistic
    from probelab.storage import load_hdf5

    first = n_train(shape)
    layer = load_hdf5(str(folder / PROBELAB), layers=shape.layers // 2)
    labels, bound = torch.from_numpy(labels_of(shape)), int(layer.offsets[first])
    offsets = layer.offsets
    train_acts = Activations.from_flat(layer.data[:bound], offsets[: first + 1], dims="bsh")
    probe = Logistic(cast="float32").fit(train_acts, labels[:first])
    with torch.no_grad():
        scores = probe.forward(layer.data[bound:].float()).numpy()
        weight = probe.linear.weight[0] / probe.scaler_std
    truth = np.repeat(labels_of(shape)[first:] == 1, np.diff(offsets[first:].numpy()))
    return {"auroc": [auroc(scores, truth)], "weight": weight.tolist()}


SIDES: dict[str, Callable[[Path, Shape], Result]] = {
    "ours: sequence probes": ours_probes,
    "probelab: sequence probes": probelab_probes,
    "ours: tokens": ours_tokens,
    "probelab: tokens": probelab_tokens,
}

"""Questions about random activations with a mask, for the tests of what answers them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sdlms.acts.handle import Acts
from sdlms.probes.labels import Labelled, labelled_by_table, labelled_by_task
from sdlms.probes.question import Question, ask
from sdlms.probes.stacks import Workshop
from sdlms.storage.labels import Label

N_UNITS = 5
LAYERS = (1, 4)


def some_acts(n_documents: int = 18, seed: int = 0, shift: float = 0.0) -> Acts:
    """`blsh` of documents of 2 to 7 tokens, some masked; unit 0 is raised in each second."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 8, (n_documents,), generator=generator)
    x = torch.randn(n_documents, len(LAYERS), 7, N_UNITS, generator=generator)
    x[::2, :, :, 0] += shift
    places = torch.arange(7)
    mask = (places < lengths[:, None]) & (torch.rand(n_documents, 7, generator=generator) > 0.2)
    mask[torch.arange(n_documents), lengths - 1] = True  # the last is never padding
    ids = [f"d{i}" for i in range(n_documents)]
    return Acts(x * mask[:, None, :, None], "blsh", mask, LAYERS, ids)


def tasks_of(acts: Acts, classes: str = "ab") -> Labelled:
    """The classes in turn."""
    return labelled_by_task([classes[i % len(classes)] for i in range(acts.n_documents)])


def tokens_of(acts: Acts, seed: int = 0) -> Labelled:
    """Half of the tokens, class y more seldom."""
    generator = np.random.default_rng(seed)
    rows = [
        Label(name, token, "y" if generator.random() < 0.3 else "x")
        for name, length in zip(acts.document_ids, acts.lengths, strict=True)
        for token in range(length)
        if generator.random() < 0.7
    ]
    return labelled_by_table(rows, acts.document_ids, acts.lengths)


def question_of(
    acts: Acts, seeds: Sequence[int] = (3, 8), *, by_token: bool = False, classes: str = "ab"
) -> Question:
    """Of tasks."""
    return ask(acts, tasks_of(acts, classes), tuple(seeds), by_token=by_token)


def workshop(folder: Path) -> Workshop:
    """On the CPU."""
    return Workshop(torch.device("cpu"), folder, lambda at_once: None)

"""A small sweep on random sparse data, for tests of the loop."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sdlms.acts import Acts
from sdlms.sae.documents import Budgets, documents_by_role
from sdlms.sae.members import Member, members_of
from sdlms.sae.preparation import Prepared, prepare
from sdlms.sae.pupil import Pupil
from tests.sae.recipes import recipe

CPU = torch.device("cpu")


def sparse_acts(n_documents: int = 40, length: int = 30, n_layers: int = 2, seed: int = 0) -> Acts:
    """Sums of few of 12 directions in 8 units, another dictionary at each layer."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(n_layers, 12, 8, generator=generator), dim=-1)
    strength = torch.rand(n_documents, n_layers, length, 12, generator=generator)
    active = torch.rand(n_documents, n_layers, length, 12, generator=generator) < 0.15
    tensor = torch.einsum("dlsf,lfh->dlsh", strength * active, truth) + 0.5
    mask = torch.ones(n_documents, length)
    mask[:, 0] = 0
    layers = [2 * layer + 1 for layer in range(n_layers)]
    ids = [f"doc{i}" for i in range(n_documents)]
    return Acts(tensor, "blsh", mask=mask, layers=layers, documents=ids)


def prepared_acts(acts: Acts, batch_size: int = 64) -> Prepared:
    counts = np.full(acts.n_documents, acts.lengths[0] - 1)
    documents = documents_by_role(counts, [""] * acts.n_documents, 0, Budgets(10_000, 10_000, 0))
    return prepare(acts, documents, batch_size, 0)


def small_members(
    coefficients: Sequence[float] = (0.1, 0.5), seeds: Sequence[int] = (0,), **changes: object
) -> list[Member]:
    return members_of(recipe("standard", **changes), [1, 3], coefficients, seeds)


def weights_of(pupils: Sequence[Pupil]) -> list[Tensor]:
    return [tensor for pupil in pupils for _, tensor in sorted(pupil.best.items())]

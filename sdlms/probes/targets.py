"""What probes are trained on: labels of documents or tokens, and who learns from which document."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.numerics.splits import TRAIN, VALIDATION


@dataclass(frozen=True)
class Targets:
    """True or false, for each label.

    Attributes:
        labels: `[label, document]` bool; with `offsets`, `[label, token]`.
        offsets: `[document + 1]` int64: document d owns tokens offsets[d]:offsets[d + 1], stored
            tokens in order, the mask's zeros included. None where labels are the documents'.
        labelled: `[token]` bool, tokens whose label is known; None for all.
    """

    labels: NDArray[np.bool_]
    offsets: NDArray[np.int64] | None = None
    labelled: NDArray[np.bool_] | None = None

    def of(
        self, documents: NDArray[np.int64], tokens: NDArray[np.int64] | None
    ) -> NDArray[np.bool_]:
        """`[label, example]`.

        Args:
            documents: `[example]`, the document of each.
            tokens: `[example]`, its place in the document; None where examples are documents.
        """
        if self.offsets is None:
            return self.labels[:, documents]
        if tokens is None:
            raise ValueError("labels are the tokens', but the probe reads whole documents")
        return self.labels[:, self.offsets[documents] + tokens]

    def known(self, documents: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`[example]`, whether the token's label is known."""
        if self.offsets is None or self.labelled is None:
            return np.ones(len(documents), dtype=np.bool_)
        known: NDArray[np.bool_] = self.labelled[self.offsets[documents] + tokens]
        return known


@dataclass(frozen=True)
class Split:
    """Who learns from which document: every seed has a split of its own.

    Attributes:
        seeds: a seed's value decides its initial parameters and dropout.
        roles: `[seed, document]` int8: TRAIN, VALIDATION or TEST.
    """

    seeds: tuple[int, ...]
    roles: NDArray[np.int8]

    def __post_init__(self) -> None:
        if self.roles.shape[:1] != (len(self.seeds),):
            raise ValueError(f"{len(self.seeds)} seeds, roles {self.roles.shape}")
        for role, name in ((TRAIN, "train"), (VALIDATION, "validate")):
            for seed, roles in zip(self.seeds, self.roles, strict=True):
                if not (roles == role).any():
                    raise UserError(f"no document to {name} on in the split of seed {seed}")

    def having(self, role: int) -> NDArray[np.bool_]:
        """`[document]`, whether any seed gives it the role."""
        return np.asarray((self.roles == role).any(axis=0))

    @property
    def train_fraction(self) -> float:
        """Of all documents, those that a seed trains on; the smallest of the seeds."""
        return float((self.roles == TRAIN).mean(axis=1).min())

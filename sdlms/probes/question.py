"""What a sweep asks: which activations, which classes, who is trained and tested on what."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.splits import N_ROLES, TEST, TRAIN, VALIDATION, grouped_split
from sdlms.probes.controls import shuffled
from sdlms.probes.labels import UNLABELLED, Labelled
from sdlms.probes.members import Members
from sdlms.probes.targets import Split, Targets

LEARNING = (TRAIN, VALIDATION)


@dataclass(frozen=True, eq=False)
class Question:
    """One sweep. Documents are numbered from 0 among those that carry a label.

    Examples are documents; or, where tokens are judged, all tokens of these documents, one
    document after another, of which only those in `usable` are read.

    Attributes:
        acts: of these documents, dims `blsh`.
        labelled: their classes.
        seeds: each has a split of its own.
        by_token: whether every token is an example.
        usable: `[example]` bool, tokens of mask 1 with a label; all true for documents.
    """

    acts: Acts
    labelled: Labelled
    seeds: tuple[int, ...]
    by_token: bool
    usable: NDArray[np.bool_]

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are asked about."""
        return self.acts.layers

    @property
    def names(self) -> list[str]:
        """The class that each label tells from the rest."""
        return [name for name, _ in self.labelled.targets]

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """`[document + 1]` the examples of each document."""
        lengths = self.acts.lengths if self.by_token else np.ones(self.acts.n_documents, np.int64)
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @cached_property
    def documents(self) -> NDArray[np.int64]:
        """`[example]` the document of each."""
        return np.repeat(np.arange(self.acts.n_documents), np.diff(self.offsets))

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """`[label, example]` whether it is of the label's class."""
        if self.labelled.tokens is not None:
            classes = np.concatenate(self.labelled.tokens)
        else:
            classes = self.labelled.classes[self.documents]
        return np.stack([classes == index for _, index in self.labelled.targets])

    @cached_property
    def roles(self) -> NDArray[np.int8]:
        """`[seed, document]` TRAIN, VALIDATION or TEST."""
        documents = np.arange(self.acts.n_documents)
        return np.stack([grouped_split(documents, self.labelled.classes, s) for s in self.seeds])

    @property
    def members(self) -> Members:
        """Layers x seeds x labels."""
        return Members.grid(len(self.layers), self.seeds, len(self.names))

    @property
    def split(self) -> Split:
        """The roles, as the training of stacks takes them."""
        return Split(self.seeds, self.roles)

    @property
    def targets(self) -> Targets:
        """The truth, as the training of stacks takes it."""
        return (
            Targets(self.truth, self.offsets, self.usable) if self.by_token else Targets(self.truth)
        )

    def documents_with(self, seed: int, *roles: int) -> NDArray[np.int64]:
        """Documents that have one of the roles in the split of the seed in this row."""
        return np.flatnonzero(np.isin(self.roles[seed], roles))

    def examples_with(self, seed: int, *roles: int) -> NDArray[np.int64]:
        """Usable examples of documents that have one of the roles."""
        chosen = np.isin(self.roles[seed], roles)[self.documents] & self.usable
        return np.flatnonzero(chosen)

    def tested_by(self, seed: int) -> NDArray[np.int64]:
        """Documents that the seed in this row tests on."""
        return self.documents_with(seed, TEST)

    def tested_examples(self, seed: int) -> NDArray[np.int64]:
        """Usable examples that the seed in this row tests on."""
        return self.examples_with(seed, TEST)

    def shuffled_truth(self, seed: int) -> NDArray[np.bool_]:
        """`[label, example]` dealt anew on either side of the split of the seed in this row."""
        sides = [self.examples_with(seed, *LEARNING), self.tested_examples(seed)]
        draw = self.seeds[seed]
        return np.stack([shuffled(row, self.documents, sides, draw) for row in self.truth])

    @property
    def class_counts(self) -> dict[str, int]:
        """How many usable examples belong to each class."""
        if self.labelled.tokens is None:
            classes = self.labelled.classes[self.documents[self.usable]]
        else:
            classes = np.concatenate(self.labelled.tokens)[self.usable]
        counts = np.bincount(classes, minlength=len(self.labelled.names)).tolist()
        return dict(zip(self.labelled.names, counts, strict=True))

    @property
    def tested(self) -> NDArray[np.int64]:
        """Documents that any seed tests on."""
        return np.flatnonzero((self.roles == TEST).any(axis=0))


def ask(acts: Acts, labelled: Labelled, seeds: tuple[int, ...], *, by_token: bool) -> Question:
    """A question that can be answered: every class is large enough to be split.

    Args:
        acts: of all documents, dims `blsh`.
        labelled: documents and their classes.
        seeds: of the splits.
        by_token: whether every token is an example.

    Raises:
        UserError: a class has too few documents, or none that can be read; a split leaves some
            seed without a class.
    """
    masks = _masks(acts.slice_batch(labelled.documents))
    kept = labelled.readable(masks)
    if not len(kept.documents):
        raise UserError("every labelled token is special or skipped: there is nothing to read.")
    _check_sizes(kept)
    if kept.tokens is not None:
        usable = np.concatenate(kept.tokens) != UNLABELLED
    elif by_token:
        usable = np.concatenate([mask for mask in masks if mask.any()])
    else:
        usable = np.ones(len(kept.documents), dtype=np.bool_)
    question = Question(acts.slice_batch(kept.documents), kept, seeds, by_token, usable)
    _check_splits(question)
    return question


def _check_sizes(labelled: Labelled) -> None:
    """Refuse classes that cannot be divided among training, validation and testing."""
    for name, n_documents in zip(labelled.names, labelled.holding().tolist(), strict=True):
        if n_documents < N_ROLES:
            documents = "document" if n_documents == 1 else "documents"
            raise UserError(
                f"--labels: of class '{name}' {n_documents or 'no'} {documents} can be read; at "
                f"least {N_ROLES} are needed, to train, to validate and to test on."
            )


def _check_splits(question: Question) -> None:
    """Refuse splits that leave a label without examples, as single tokens may have it."""
    roles = ((TRAIN, "train"), (TEST, "test"))
    for (row, seed), (role, verb) in product(enumerate(question.seeds), roles):
        truth = question.truth[:, question.examples_with(row, role)]
        one_class = truth.all(axis=1) | ~truth.any(axis=1)
        if one_class.any():
            name = question.names[int(one_class.argmax())]
            raise UserError(
                f"--labels: the documents that seed {seed} would {verb} on are all of '{name}', "
                "or none is. Label more documents, or choose another --seed."
            )


def _masks(acts: Acts) -> list[NDArray[np.bool_]]:
    """Each document's mask, without padding."""
    found = []
    for batch in range(0, acts.n_documents, 1024):
        some = acts.slice_batch(slice(batch, batch + 1024))
        mask = some.mask
        assert mask is not None
        found += [row[:n].numpy() for row, n in zip(mask, some.lengths.tolist(), strict=True)]
    return found

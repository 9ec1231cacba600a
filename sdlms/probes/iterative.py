"""One probe trained epoch by epoch: a stack of one member, behind `fit` and `predict`."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.splits import TEST, TRAIN, VALIDATION, grouped_split
from sdlms.probes.batches import ActsBatches, Batches
from sdlms.probes.evaluating import logits_of
from sdlms.probes.labels import UNLABELLED, rarest_classes
from sdlms.probes.lesson import Lesson, is_by_token, read_examples
from sdlms.probes.members import Members
from sdlms.probes.network import Network, Schedule
from sdlms.probes.pieces import Room
from sdlms.probes.stacked import Params
from sdlms.probes.targets import Split, Targets
from sdlms.probes.training import say_nothing, train
from sdlms.progress import LOGGER

Config = TypeVar("Config", bound=Schedule)
VALIDATION_FRACTION = 0.2
ONE_SEED = (0,)


class IterativeProbe(ABC, Generic[Config]):
    """A probe of one layer and one label.

    Attributes:
        config: widths and schedule.
        converged: whether `fit` ended by its patience, not at the limit of epochs; None before.
    """

    kind: ClassVar[str]
    reads: ClassVar[str]  # the weight of the first layer, whose last axis is the units
    config_class: Callable[..., Config]

    def __init__(self, config: Config | None = None) -> None:
        """An unfitted probe; None stands for the usual settings."""
        self.config: Config = self.config_class() if config is None else config
        self.converged: bool | None = None
        self._tensors: Params | None = None

    @abstractmethod
    def network(self, tensors: Params) -> Network:
        """The network that predicts with these tensors, which are those of `tensors()`."""

    def network_for(self, data: Batches, split: Split) -> Network:
        """The network that is trained on the training documents of a split."""
        return self.network({})

    def fit(
        self,
        x: Tensor | Acts,
        y: Tensor | Sequence[bool],
        mask: Tensor | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from examples; a fifth of the documents of each class decides when to stop.

        Args:
            x: `[document, unit]`, or `[document, token, unit]`; any float type, computed in
                float32. Or Acts of one layer.
            y: `[document]`, or `[document, token]` for a probe that judges each token; bool or 0
                and 1.
            mask: `[document, token]` 0 or 1, needed exactly for a tensor with tokens.
            seed: of the split, the initial parameters, the order and the dropout.

        Returns:
            The probe itself.

        Raises:
            UserError: fewer than two documents of a class, or no token of it to train on; a
                document without a token; an activation of mask 1 is NaN or infinite.
            ValueError: shapes that do not fit together.
        """
        acts = _acts_of(x, mask)
        data = ActsBatches(acts)
        truth = _truth_of(y, data)
        targets = _targets_of(truth, data.lengths)
        split = _split_of(truth, acts.mask, seed)
        network = self.network_for(data, split)
        trained = train(network, Lesson(data, targets, split, order_seed=seed))
        if len(trained.lost):
            LOGGER.warning(f"{self.kind}: the validation loss never was a number; it predicts nan")
        self.converged = bool(trained.converged[0])
        self._tensors = trained.tensors_of(0)
        return self

    def predict(self, x: Tensor | Acts, mask: Tensor | None = None) -> Tensor:
        """Probability of class 1.

        Args:
            x: as in `fit`.
            mask: as in `fit`.

        Returns:
            `[document]` float32 in [0, 1]; of a probe that judges each token `[document, token]`,
            NaN where the mask is 0.

        Raises:
            ValueError: the probe was not fitted, another number of units, or shapes that do not
                fit together.
            UserError: an activation of mask 1 is NaN or infinite.
        """
        tensors = self.tensors()
        data, network = ActsBatches(_acts_of(x, mask)), self.network(tensors)
        if data.n_units != (n_units := tensors[self.reads].shape[-1]):
            raise ValueError(f"x has {data.n_units} units, the probe {n_units}")
        n_tokens = int(max(data.lengths, default=0)) if data.lengths is not None else 0
        if isinstance(x, Tensor) and x.ndim == 3:
            n_tokens = x.shape[1]
        by_token = is_by_token(network, data)
        shape = (data.n_documents, n_tokens) if by_token else (data.n_documents,)
        found = torch.full(shape, float("nan"))
        members, room = Members.grid(1, ONE_SEED, 1), Room(say_nothing)
        device = next(iter(tensors.values())).device
        everything = np.arange(data.n_documents)
        for examples in read_examples(network, data, everything, device):
            logits = logits_of(network, tensors, members, examples, room)[0].cpu()
            rows = torch.from_numpy(examples.documents)
            if examples.tokens is None:
                found[rows] = logits.sigmoid()
            else:
                found[rows, torch.from_numpy(examples.tokens)] = logits.sigmoid()
        return found

    def settings(self) -> dict[str, Any]:
        """Widths and schedule, and how the fit ended."""
        return {**dataclasses.asdict(self.config), "converged": self.converged}

    def tensors(self) -> Params:
        """What `predict` needs, all float32 with a leading axis of size 1.

        Raises:
            ValueError: not fitted.
        """
        if self._tensors is None:
            raise ValueError("this probe was not fitted: call fit(x, y) first")
        return self._tensors

    @classmethod
    def from_parts(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The probe that `settings` and `tensors` came from; its predictions are bit-equal.

        `converged` may be missing from the settings; every other setting has its default.

        Raises:
            KeyError: a tensor is missing.
            TypeError: a setting is unknown.
        """
        known = {name: value for name, value in settings.items() if name != "converged"}
        probe = cls(cls.config_class(**known))
        probe.converged = settings.get("converged")
        probe._tensors = dict(tensors)
        needed = probe.network(probe._tensors).initial(1, 0)
        for name in needed:
            probe._tensors[name]  # a missing one is a KeyError here, not at the first prediction
        return probe


def _acts_of(x: Tensor | Acts, mask: Tensor | None) -> Acts:
    """Acts of one layer, whatever was given."""
    if isinstance(x, Acts):
        if mask is not None:
            raise ValueError("Acts have a mask of their own")
        if x.dims not in ("bh", "bsh"):
            raise ValueError(
                f"a probe reads one layer, but these activations have dims '{x.dims}': "
                "choose it with select_layers(layer)"
            )
        return x
    if x.ndim not in (2, 3) or (x.ndim == 3) != (mask is not None):
        raise ValueError(
            f"x {tuple(x.shape)} must be [document, unit], or [document, token, unit] with a mask"
        )
    x = x.float() if x.dtype == torch.float64 else x
    return Acts(x, "bh" if x.ndim == 2 else "bsh", mask)


def _truth_of(y: Tensor | Sequence[bool], data: ActsBatches) -> NDArray[np.bool_]:
    """`[document]` or `[document, token]` bool."""
    given = torch.as_tensor(y).cpu()
    truth: NDArray[np.bool_] = given.bool().numpy()
    fits = truth.ndim == 1
    if truth.ndim == 2 and data.lengths is not None:
        fits = truth.shape[1] >= data.lengths.max(initial=0)
    if not fits or len(truth) != data.n_documents:
        raise ValueError(f"y {truth.shape} for {data.n_documents} documents")
    if not bool((torch.from_numpy(truth) == given).all()):
        raise ValueError("y must be bool, or 0 and 1")
    return truth


def _targets_of(truth: NDArray[np.bool_], lengths: NDArray[np.int64] | None) -> Targets:
    """One label, of documents or of their tokens."""
    if truth.ndim == 1 or lengths is None:
        return Targets(truth[None])
    within = np.arange(truth.shape[1]) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Targets(truth[within][None], offsets)


def _split_of(truth: NDArray[np.bool_], mask: Tensor | None, seed: int) -> Split:
    """A fifth of each class for validation, the rest for training.

    Where tokens have labels, a document counts as of the class that fewest documents hold.

    Args:
        truth: `[document]` or `[document, token]`.
        mask: `[document, token]` of the activations; None without tokens.
        seed: of the split.

    Raises:
        UserError: a class has fewer than two documents, or no token to train on.
    """
    tokens = _labelled_tokens(truth, mask) if truth.ndim == 2 and mask is not None else None
    if tokens is None:
        _check_counts(truth)
        classes = truth.astype(np.int64)
    else:
        classes = rarest_classes(tokens, 2)
    roles = grouped_split(np.arange(len(truth)), classes, seed, VALIDATION_FRACTION, 0)
    split = Split((seed,), np.where(roles == TEST, VALIDATION, roles)[None].astype(np.int8))
    if tokens is not None:
        _check_tokens([tokens[i] for i in np.flatnonzero(split.having(TRAIN))])
    return split


def _labelled_tokens(truth: NDArray[np.bool_], mask: Tensor) -> list[NDArray[np.int64]]:
    """Of each document `[token]` its class, -1 where the mask is 0."""
    kept = mask.cpu().numpy()
    classes = np.where(kept, truth[:, : kept.shape[1]].astype(np.int64), UNLABELLED)
    return list(classes)


def _check_counts(truth: NDArray[np.bool_]) -> None:
    """Refuse documents of which a class is missing, in training or in validation."""
    for value, count in ((1, int(truth.sum())), (0, int((~truth).sum()))):
        if count < 2:
            raise UserError(
                f"{count} {'document' if count == 1 else 'documents'} of class {value}; two are "
                "needed, one to train on and one to decide when to stop."
            )


def _check_tokens(trained: list[NDArray[np.int64]]) -> None:
    """Refuse training documents whose tokens are all of one class."""
    for value in (1, 0):
        if not any((row == value).any() for row in trained):
            raise UserError(
                f"no token of class {value} to train on; both classes are needed, in two "
                "documents at least."
            )

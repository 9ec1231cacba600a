"""How a layer chooses its neurons: one chooser for each rule of the family `down`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sdlms.models.gating.backends import Backend
from sdlms.models.gating.learned import LearnedLayer
from sdlms.models.gating.rules import n_kept
from sdlms.models.gating.scoring import largest_mask, magnitudes, share_counts


class Chooser(Protocol):
    """How one layer chooses its neurons."""

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """The neurons that are kept: bool `[row, neuron]`.

        Args:
            acts: `[row, neuron]`.
            before: the same before the activation function, where the rule asks for it.
        """
        ...

    def product(
        self, backend: Backend, rows: Tensor, bias: Tensor | None, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, int]:
        """The down projection of one token's kept neurons, and how many these were.

        Args:
            backend: does the sum.
            rows: `[neuron, d_model]`.
            bias: `[d_model]`.
            x: `[neuron]`.
            before: as above, `[neuron]`.
        """
        ...


class _Listing:
    """A chooser whose product is that of its mask."""

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        raise NotImplementedError

    def product(
        self, backend: Backend, rows: Tensor, bias: Tensor | None, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, int]:
        """See `Chooser`."""
        mask = self.mask(x[None], None if before is None else before[None])[0]
        indices = mask.nonzero().flatten()
        return backend.listed(rows, bias, x, indices), len(indices)


@dataclass(frozen=True)
class Largest:
    """The `n` neurons of largest magnitude times `weights`."""

    weights: Tensor | None
    n: int

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        return largest_mask(magnitudes(acts, self.weights), self.n)

    def product(
        self, backend: Backend, rows: Tensor, bias: Tensor | None, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, int]:
        """See `Chooser`."""
        return backend.largest(rows, bias, x, self.weights, self.n), self.n


@dataclass(frozen=True)
class Above:
    """The neurons whose magnitude times `weights` is above `least`."""

    weights: Tensor | None
    least: float

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        return magnitudes(acts, self.weights) > self.least

    def product(
        self, backend: Backend, rows: Tensor, bias: Tensor | None, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, int]:
        """See `Chooser`."""
        return backend.above(rows, bias, x, self.weights, self.least)


@dataclass(frozen=True)
class Share:
    """The fewest neurons whose magnitudes times `weights` hold `share` of their sum."""

    weights: Tensor
    share: float

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        scores = magnitudes(acts, self.weights)
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        kept = torch.arange(acts.shape[-1], device=acts.device) < self._counts(scores)[:, None]
        return torch.empty_like(kept).scatter_(-1, order, kept)

    def product(
        self, backend: Backend, rows: Tensor, bias: Tensor | None, x: Tensor, before: Tensor | None
    ) -> tuple[Tensor, int]:
        """See `Chooser`."""
        n = int(self._counts(magnitudes(x[None], self.weights)))
        return backend.largest(rows, bias, x, self.weights, n), n

    def _counts(self, scores: Tensor) -> Tensor:
        return share_counts(scores, self.share)


@dataclass(frozen=True)
class LargestBefore(_Listing):
    """The `n` neurons of largest magnitude before the activation function."""

    n: int

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        if before is None:
            raise ValueError("the rule asks for the neurons before the activation function")
        return largest_mask(magnitudes(before, None), self.n)


@dataclass(frozen=True)
class Random(_Listing):
    """`n` neurons at random, others for each row; a batch draws what its rows draw in turn."""

    n: int
    generator: torch.Generator

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        device = self.generator.device
        return largest_mask(torch.rand(acts.shape, generator=self.generator, device=device), self.n)


@dataclass(frozen=True)
class Blocks(_Listing):
    """Whole blocks of neurons, those of largest mean score first; the last is cut to give `n`.

    Attributes:
        weights: `[neuron]`, score = magnitude x weight.
        n: neurons kept.
        block: int64 `[neuron]`, the block of each neuron, 0 to n_blocks - 1, none empty.
    """

    weights: Tensor
    n: int
    block: Tensor
    _order: Tensor = field(init=False)
    _sizes: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", self.block.argsort(stable=True))
        object.__setattr__(self, "_sizes", self.block.bincount())

    def mask(self, acts: Tensor, before: Tensor | None) -> Tensor:
        """See `Chooser`."""
        scores = magnitudes(acts, self.weights)
        # The bits of floats that are not negative are ordered as the floats are.
        within = scores.view(torch.int32).long()
        return largest_mask((self._places(scores)[:, self.block] << 32) + within, self.n)

    def _places(self, scores: Tensor) -> Tensor:
        """The place of every block in its row, the best block the highest: `[row, block]`."""
        # Sums in float64 and in a fixed order: the same for a row alone and in a batch.
        sums = scores[:, self._order].double().cumsum(-1)[:, self._sizes.cumsum(0) - 1]
        sums[:, 1:] -= sums[:, :-1].clone()
        order = (sums / self._sizes).argsort(dim=-1, descending=True, stable=True)
        places = torch.arange(order.shape[-1] - 1, -1, -1, device=order.device)
        return torch.empty_like(order).scatter_(-1, order, places.expand_as(order))


@dataclass(frozen=True)
class Facts:
    """What the choosers of one layer are made from.

    Attributes:
        layer: from 0.
        norms: `output_norms`, on the layer's device.
        learned: what a calibration sample gave.
        seed: of what is drawn.
    """

    layer: int
    norms: Tensor
    learned: LearnedLayer | None
    seed: int

    def known(self) -> LearnedLayer:
        """What was learned, of a rule that needs it."""
        if self.learned is None:
            raise ValueError("the rule needs a calibration sample")
        return self.learned

    def generator(self, device: torch.device) -> torch.Generator:
        """Random numbers of this layer."""
        return torch.Generator(device).manual_seed(self.seed * 100_003 + self.layer)

    def blocks(self) -> Tensor:
        """Block of each neuron; neurons without a community are blocks of one."""
        found = self.known().block
        if found is None:
            raise ValueError("the rule needs blocks")
        found = found.clone()
        alone = found < 0
        found[alone] = found.amax().clamp(min=-1) + 1 + torch.arange(int(alone.sum()))
        return torch.searchsorted(torch.unique(found), found)

    def shuffled_blocks(self) -> Tensor:
        """The same sizes, the neurons dealt to them at random."""
        blocks = self.blocks()
        return blocks[torch.randperm(len(blocks), generator=self.generator(torch.device("cpu")))]


class Aim(NamedTuple):
    """What is to be kept: the fraction, the number of neurons, and the p of `top-p`."""

    keep: float
    n: int
    share: float


CHOOSERS: dict[str, Callable[[Facts, Aim], Chooser]] = {
    "post-norm": lambda facts, aim: Largest(facts.norms, aim.n),
    "post-abs": lambda facts, aim: Largest(None, aim.n),
    "pre-abs": lambda facts, aim: LargestBefore(aim.n),
    "random": lambda facts, aim: Random(aim.n, facts.generator(facts.norms.device)),
    "threshold": lambda facts, aim: Above(facts.norms, facts.known().least_score(aim.keep)),
    "top-p": lambda facts, aim: Share(facts.norms, aim.share),
    "blocks": lambda facts, aim: Blocks(facts.norms, aim.n, facts.blocks().to(facts.norms.device)),
    "blocks-random": lambda facts, aim: Blocks(
        facts.norms, aim.n, facts.shuffled_blocks().to(facts.norms.device)
    ),
}


def chooser_of(rule: str, facts: Facts, keep: float, share: float) -> Chooser:
    """How a layer chooses under a rule of the family `down`; at keep 1 it keeps all neurons.

    Args:
        rule: its name.
        facts: of the layer.
        keep: in (0, 1].
        share: the p of `top-p`, one for all layers.
    """
    n_neurons = len(facts.norms)
    if keep == 1:
        return Largest(None, n_neurons)
    return CHOOSERS[rule](facts, Aim(keep, n_kept(keep, n_neurons), share))

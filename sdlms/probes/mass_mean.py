"""Mass-mean probe: the line from the mean of class 0 to the mean of class 1."""

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.probes.stream import ExampleStream, truth_of


class MassMeanProbe:
    """Tells two classes apart by how far along the line between their means an example lies.

    The score is (x - midpoint) . direction, with direction = mean of class 1 - mean of class 0 of
    the activations as they are, and the midpoint between the two means: 0 is half-way.
    Probabilities are sigmoid(scale * score + offset), where the scores of both classes are taken
    as normal with one variance v: scale = |direction|^2 / v, offset = log(n_1 / n_0). AUROC
    depends on neither. Where no score varies within its class the probabilities are 0 and 1;
    where the means are equal they are the base rate. Everything is a sum over examples, so
    tokens are read in two passes, and memory does not grow with their number.

    Source: Marks and Tegmark (2024), "The Geometry of Truth", section 5 (without the inverse
    covariance); for scale and offset Hastie, Tibshirani and Friedman (2009), eq. 4.9.
    """

    def __init__(self) -> None:
        """An unfitted probe."""
        self._tensors: dict[str, Tensor] | None = None

    def fit(self, x: Tensor | Acts, y: Tensor | Sequence[bool], mask: Tensor | None = None) -> Self:
        """Learn from examples.

        Args:
            x: `[document, unit]`, or `[document, token, unit]`, where each mask-1 token is an
                example; any float type, summed in float64. Or Acts of one layer.
            y: `[document]`, repeated over its tokens, or `[document, token]`; bool or 0 and 1.
            mask: `[document, token]` 0 or 1, needed for a tensor with tokens.

        Returns:
            The probe itself.

        Raises:
            ValueError: shapes that do not fit together.
            UserError: one class only, or an activation that is not finite, with its document.
        """
        stream = ExampleStream(x, mask)
        truth = stream.labelled(y)
        counts, means = _class_means(stream, truth)
        direction, midpoint = (means[1] - means[0]).float(), ((means[1] + means[0]) / 2).float()
        variance = _variance_within(stream, truth, direction, midpoint)
        length = float(direction.double().square().sum())
        largest = torch.finfo(torch.float32).max
        scale = min(length / variance, largest) if variance > 0 else largest * (length > 0)
        self._tensors = {
            "direction": direction,
            "midpoint": midpoint,
            "scale": torch.tensor(scale, dtype=torch.float32),
            "offset": (counts[1] / counts[0]).log().float(),
        }
        return self

    def predict(self, x: Tensor | Acts, mask: Tensor | None = None) -> Tensor:
        """Probability of class 1.

        Args:
            x: as in `fit`.
            mask: as in `fit`.

        Returns:
            `[document]` float32 in [0, 1]; with tokens `[document, token]`, NaN where the mask
            is 0.

        Raises:
            ValueError: not fitted, or another number of units.
            UserError: an activation is not finite.
        """
        fitted, stream = self.tensors(), ExampleStream(x, mask)
        if stream.n_units != len(fitted["direction"]):
            raise ValueError(f"x has {stream.n_units} units, not {len(fitted['direction'])}")
        parts = []
        for block in stream.blocks():
            scores = (block.x - fitted["midpoint"]) @ fitted["direction"]
            parts.append(torch.sigmoid(scores * fitted["scale"] + fitted["offset"]))
        return stream.padded(parts)

    @property
    def bias(self) -> float:
        """What is added to x . direction: minus the mean of the two means' projections."""
        fitted = self.tensors()
        return -float(fitted["midpoint"].double() @ fitted["direction"].double())

    def tensors(self) -> dict[str, Tensor]:
        """`direction`, `midpoint` `[unit]`, `scale` and `offset` `[]`, all float32.

        Raises:
            ValueError: not fitted.
        """
        if self._tensors is None:
            raise ValueError("this probe was not fitted: call fit(x, y) first")
        return dict(self._tensors)

    def settings(self) -> dict[str, float]:
        """None: the probe has nothing to choose."""
        return {}

    @classmethod
    def from_parts(cls, settings: Mapping[str, float], tensors: Mapping[str, Tensor]) -> Self:
        """The probe that `settings` and `tensors` came from; its predictions are bit-equal.

        Raises:
            ValueError: parts of another kind of probe.
        """
        if settings or set(tensors) != {"direction", "midpoint", "scale", "offset"}:
            raise ValueError(f"not a mass-mean probe: {sorted(settings)}, {sorted(tensors)}")
        probe = cls()
        probe._tensors = dict(tensors)
        return probe


def _class_means(stream: ExampleStream, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Examples `[class]` and mean `[class, unit]` of both classes, in float64."""
    counts = torch.zeros(2, dtype=torch.float64)
    sums = torch.zeros(2, stream.n_units, dtype=torch.float64)
    for block in stream.blocks():
        positive = truth_of(block, truth)
        members = torch.stack([~positive, positive]).double()
        counts += members.sum(dim=1)
        sums += members @ block.x.double()
    if not bool((counts > 0).all()):
        raise UserError("a mass-mean probe needs examples of both classes; there is one only.")
    return counts, sums / counts[:, None]


def _variance_within(
    stream: ExampleStream, truth: Tensor, direction: Tensor, midpoint: Tensor
) -> float:
    """Variance of the scores around their own class's mean, pooled over the classes."""
    half = float(direction.double().square().sum()) / 2
    total, n_examples = 0.0, 0
    for block in stream.blocks():
        scores = ((block.x - midpoint) @ direction).double()
        centres = torch.where(truth_of(block, truth), half, -half)
        total += float((scores - centres).square().sum())
        n_examples += len(scores)
    return total / n_examples

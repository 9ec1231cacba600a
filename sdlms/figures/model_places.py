"""Where models of several sizes stand on an axis: those of one size share a place, side by side."""

from itertools import pairwise
from statistics import geometric_mean

DODGE = 0.02  # between two points, of the distance between the smallest and the largest model
NEAR = 0.04  # models nearer than that, of the same distance, share a place


class Places:
    """Where models stand on the x axis, a logarithm of parameters; those of a size share a place.

    Attributes:
        groups: models and their parameters, the smallest first; of one size in one group.
        spread: parameters of the largest model, of the smallest's; 2 at least.
    """

    def __init__(self, sizes: dict[str, float]) -> None:
        """Put models together that could not be told apart.

        Args:
            sizes: parameters of each model.
        """
        order = sorted(sizes, key=lambda model: sizes[model])
        self.spread = max(2.0, sizes[order[-1]] / sizes[order[0]])
        self.groups = [{order[0]: sizes[order[0]]}]
        for smaller, larger in pairwise(order):
            if sizes[larger] >= sizes[smaller] * self.spread**NEAR:
                self.groups.append({})
            self.groups[-1][larger] = sizes[larger]

    def of(self, model: str, line: int, n_lines: int) -> float:
        """Where the point of a model stands, beside those of other lines and models there."""
        group = next(group for group in self.groups if model in group)
        number = list(group).index(model) * n_lines + line
        shift = DODGE * (number - (n_lines * len(group) - 1) / 2)
        return float(self.middle(group) * self.spread**shift)

    def middle(self, group: dict[str, float]) -> float:
        """Where the name of a group stands."""
        return geometric_mean(group.values())

    def neighbours(self, smaller: str, larger: str) -> bool:
        """Whether no size lies between those of two models, and no other model is of them."""
        return ([smaller], [larger]) in pairwise(list(group) for group in self.groups)

    @property
    def shared(self) -> bool:
        """Whether models share a place."""
        return any(len(group) > 1 for group in self.groups)

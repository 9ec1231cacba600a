"""How much was kept, layer by layer."""

import math

from torch import Tensor


class Tally:
    """Kept shares of one layer, summed over tokens.

    Sums stay where they were made: a GPU is not waited for before they are read.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._kept: Tensor | float = 0.0
        self._n_tokens = 0

    def add(self, kept: Tensor | float, n_tokens: int) -> None:
        """Count tokens.

        Args:
            kept: sum over them of the kept fraction.
            n_tokens: how many they are.
        """
        self._kept = self._kept + kept
        self._n_tokens += n_tokens

    def mean(self) -> float:
        """The mean over tokens; NaN without any."""
        return float(self._kept) / self._n_tokens if self._n_tokens else math.nan

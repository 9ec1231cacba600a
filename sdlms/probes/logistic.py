"""Logistic probe: L2-regularised logistic regression on standardised units."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.probes.logistic_fit import LogisticFit, fit_logistic, standardised
from sdlms.probes.logistic_streamed import fit_logistic_streamed
from sdlms.probes.stream import ExampleStream, truth_of

Setting = bool | int | float


class LogisticProbe:
    """Tells two classes apart by a weighted sum of standardised units.

    Documents are fitted in memory. Tokens are read in several passes (see
    `fit_logistic_streamed`), so that memory does not grow with their number.

    Attributes:
        c: inverse strength of the penalty.
        result: what `fit` found, or None before; its `converged` must be looked at.
    """

    def __init__(self, c: float = 1.0, result: LogisticFit | None = None) -> None:
        """An unfitted probe, or one around a fit that was made elsewhere.

        Raises:
            ValueError: c <= 0.
        """
        if not c > 0:
            raise ValueError(f"c must be > 0, got {c}")
        self.c, self.result = c, result

    def fit(self, x: Tensor | Acts, y: Tensor | Sequence[bool], mask: Tensor | None = None) -> Self:
        """Learn from examples.

        Args:
            x: `[document, unit]`, or `[document, token, unit]`, where each mask-1 token is an
                example; any float type, computed in float32. Or Acts of one layer.
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
        if stream.n_tokens is None:
            self.result = fit_logistic(stream.whole(), truth, c=self.c)
            return self

        def blocks() -> Iterable[tuple[Tensor, Tensor]]:
            return ((block.x, truth_of(block, truth)) for block in stream.blocks())

        (self.result,) = fit_logistic_streamed(blocks, stream.n_units, self.c)
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
        fit, stream = self._fitted(), ExampleStream(x, mask)
        if stream.n_units != len(fit.weight):
            raise ValueError(f"x has {stream.n_units} units, the probe {len(fit.weight)}")
        weight = fit.weight.float()
        columns = (standardised(block.x, fit.mean, fit.std) for block in stream.blocks())
        return stream.padded([torch.sigmoid(part @ weight + fit.bias) for part in columns])

    def tensors(self) -> dict[str, Tensor]:
        """What `predict` needs: `weight`, `mean`, `std` `[unit]` and `bias` `[]`, all float64.

        Raises:
            ValueError: not fitted.
        """
        fit = self._fitted()
        bias = torch.tensor(fit.bias, dtype=torch.float64)
        return {"weight": fit.weight, "bias": bias, "mean": fit.mean, "std": fit.std}

    def settings(self) -> dict[str, Setting]:
        """C, and how the fit ended.

        Raises:
            ValueError: not fitted.
        """
        fit = self._fitted()
        return {
            "c": self.c,
            "converged": fit.converged,
            "n_iterations": fit.n_iterations,
            "gradient_norm": fit.gradient_norm,
        }

    @classmethod
    def from_parts(cls, settings: Mapping[str, Setting], tensors: Mapping[str, Tensor]) -> Self:
        """The probe that `settings` and `tensors` came from; its predictions are bit-equal.

        Raises:
            KeyError: a part is missing.
        """
        fit = LogisticFit(
            weight=tensors["weight"],
            bias=float(tensors["bias"]),
            mean=tensors["mean"],
            std=tensors["std"],
            converged=bool(settings["converged"]),
            n_iterations=int(settings["n_iterations"]),
            gradient_norm=float(settings["gradient_norm"]),
        )
        return cls(float(settings["c"]), fit)

    def _fitted(self) -> LogisticFit:
        if self.result is None:
            raise ValueError("this probe was not fitted: call fit(x, y) first")
        return self.result

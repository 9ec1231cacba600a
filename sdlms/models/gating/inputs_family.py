"""The rule that skips small inputs of every matrix of the MLP (TEAL, arXiv 2408.14690)."""

from collections.abc import Sequence

from torch import Tensor

from sdlms.models.gating.laid_rows import Rows, lay_all_back
from sdlms.models.gating.layouts import LinearMap, Mlp
from sdlms.models.gating.scoring import magnitudes
from sdlms.models.gating.terms import GatedMlp, Terms, masked_product, rows_joined, rows_of


class InputsMlp(GatedMlp):
    """Each matrix has its own threshold; kept fractions are weighted by the matrices' sizes."""

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        super().__init__(mlp, terms)
        assert terms.learned is not None
        self._learned = terms.learned.layers[mlp.layer]
        self._rows: list[Rows] = []
        self._least: list[float] = []
        self._n_weights = sum(linear.n_inputs * linear.n_outputs for linear in mlp.maps)

    def set_keep(self, keep: float, share: float) -> None:
        """See `GatedMlp`."""
        self._least = self._learned.least_inputs(share)

    def lay(self) -> None:
        """See `GatedMlp`."""
        if not self.terms.masked:
            for linear in self.mlp.maps:
                self._rows.append(Rows(linear, "inputs", copied=self.terms.how.hold_both))
                self._rows[-1].lay_(self.terms.scratch)

    def lay_back(self) -> None:
        """See `GatedMlp`."""
        lay_all_back(self._rows, self.terms.scratch)

    def up(self, index: int, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        return self._product(index, self.mlp.ups[index], x, 0)

    def down(self, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        return self._product(len(self.mlp.ups), self.mlp.down, x, x.numel() // x.shape[-1])

    def _product(self, index: int, linear: LinearMap, x: Tensor, n_tokens: int) -> Tensor:
        """The product with the large inputs; the last matrix counts the tokens."""
        share = linear.n_outputs / self._n_weights  # of one input
        if self.singly(x, linear.n_inputs):
            found, n = self._product_singly(index, rows_of(x, linear.n_inputs))
            self.tally.add(n * share, n_tokens)
            return rows_joined(found, x)
        mask = magnitudes(x, None) > self._least[index]
        self.tally.add(mask.sum() * share, n_tokens)
        if linear is self.mlp.down:
            self.tell(mask, x)
        return masked_product(linear, x, mask)

    def _product_singly(self, index: int, rows: Sequence[Tensor]) -> tuple[list[Tensor], int]:
        """Row by row; and how many inputs were kept in all."""
        assert self.backend is not None
        laid, n, found = self._rows[index], 0, []
        for row in rows:
            product, kept = self.backend.above(laid.rows, laid.bias, row, None, self._least[index])
            found.append(product)
            n += kept
        return found, n

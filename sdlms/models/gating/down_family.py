"""Rules that choose among the finished neurons of a token and skip rows of the down projection."""

from torch import Tensor

from sdlms.models.gating.choosers import Chooser, Facts, chooser_of
from sdlms.models.gating.laid_rows import Rows
from sdlms.models.gating.layouts import LinearMap, Mlp
from sdlms.models.gating.scoring import output_norms
from sdlms.models.gating.terms import GatedMlp, Terms, masked_product, rows_joined, rows_of


class DownMlp(GatedMlp):
    """Up and gate matrices whole; then a set of neurons for each token."""

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        super().__init__(mlp, terms)
        learned = terms.learned
        self._facts = Facts(
            layer=mlp.layer,
            norms=output_norms(mlp.down.weight, 1 if mlp.down.rows == "outputs" else 0),
            learned=None if learned is None else learned.layers[mlp.layer],
            seed=terms.how.seed,
        )
        self._choosers: dict[tuple[float, float], Chooser] = {}
        self._chooser: Chooser | None = None
        self._rows: Rows | None = None
        self._before: Tensor | None = None

    def set_keep(self, keep: float, share: float) -> None:
        """See `GatedMlp`."""
        if (keep, share) not in self._choosers:  # `random` goes on drawing where it left off
            self._choosers[keep, share] = chooser_of(self.terms.rule, self._facts, keep, share)
        self._chooser = self._choosers[keep, share]

    def lay(self) -> None:
        """See `GatedMlp`."""
        if not self.terms.masked:
            self._rows = Rows(self.mlp.down, "inputs", copied=self.terms.how.hold_both)
            self._rows.lay_(self.terms.scratch)

    def lay_back(self) -> None:
        """See `GatedMlp`."""
        try:
            if self._rows is not None:
                self._rows.lay_back(self.terms.scratch)
        finally:
            self._rows = None

    def up(self, index: int, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        linear = self.mlp.ups[index]
        out = self._up_singly(linear, x) if self.singly(x, linear.n_inputs) else None
        if out is None:
            out = linear.module.forward(x)
        if index == 0 and self.terms.rule == "pre-abs":
            self._before = out
        return out

    def _up_singly(self, linear: LinearMap, x: Tensor) -> Tensor:
        """The whole product, row by row."""
        bias, n, backend = linear.bias, linear.n_inputs, self.backend
        assert backend is not None
        rows, weight = rows_of(x, n), linear.by(linear.dense_rows)
        if linear.dense_rows == "outputs":
            return rows_joined([backend.dense(weight, bias, row) for row in rows], x)
        return rows_joined([backend.largest(weight, bias, row, None, n) for row in rows], x)

    def down(self, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        chooser, before = self._chooser, self._before
        assert chooser is not None
        self._before = None
        if self.singly(x, x.shape[-1]):
            return self._down_singly(chooser, x, before)
        flat = x.reshape(-1, x.shape[-1])
        before = None if before is None else before.reshape(flat.shape)
        mask = chooser.mask(flat, before)
        self.tally.add(mask.sum() / mask.shape[1], len(mask))
        self.tell(mask, x)
        return masked_product(self.mlp.down, x, mask)

    def _down_singly(self, chooser: Chooser, x: Tensor, before: Tensor | None) -> Tensor:
        """The kept rows of the down projection, token by token."""
        laid, backend, n = self._rows, self.backend, x.shape[-1]
        assert laid is not None and backend is not None
        earlier = None if before is None else rows_of(before, n)
        found = []
        for index, row in enumerate(rows_of(x, n)):
            own = None if earlier is None else earlier[index]
            product, n_kept = chooser.product(backend, laid.rows, laid.bias, row, own)
            self.tally.add(n_kept / n, 1)
            found.append(product)
        return rows_joined(found, x)

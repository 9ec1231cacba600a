"""Rules that keep one set of neurons for many tokens, so that all matrices shrink to it."""

import torch
from torch import Tensor
from torch.nn import functional

from sdlms.models.gating.laid_rows import Rows, lay_all_back
from sdlms.models.gating.layouts import Mlp
from sdlms.models.gating.rules import n_kept
from sdlms.models.gating.scoring import largest_mask, output_norms
from sdlms.models.gating.terms import GatedMlp, Terms, masked_product, rows_joined, rows_of


class CompactMlp(GatedMlp):
    """One set of neurons for all tokens of a row of the batch."""

    permutes = True

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        super().__init__(mlp, terms)
        self._keep = 1.0
        self._scores: Tensor | None = None  # [row of the batch, or 1; neuron]
        self._kept: Tensor | None = None  # bool, of the same shape
        self._n: int | None = None  # while the matrices are compact, to so many neurons
        self._rows: list[Rows] = []

    def set_keep(self, keep: float, share: float) -> None:
        """See `GatedMlp`."""
        self._keep = keep
        self.choose(self._scores)

    def choose(self, scores: Tensor | None) -> None:
        """Keep the neurons of largest score from now on; without scores all of them.

        Args:
            scores: float32 `[row, neuron]`; the matrices shrink where there is one row.
        """
        self._scores = scores
        self._kept = None
        if scores is not None:
            self._kept = largest_mask(scores, n_kept(self._keep, scores.shape[-1]))
        self._shrink()

    def _shrink(self) -> None:
        """Make the matrices as compact as the sets allow."""
        self._n = None
        if self._kept is not None and len(self._kept) == 1:
            for rows in self._rows:
                rows.front_(self._kept[0])
            self._n = int(self._kept.sum()) if self._rows else None
        else:
            for rows in self._rows:
                rows.restore_()

    def lay(self) -> None:
        """See `GatedMlp`."""
        if not self.terms.masked:
            copied = self.terms.how.hold_both
            for linear in self.mlp.ups:
                self._rows.append(Rows(linear, "outputs", copied=copied))
                self._rows[-1].lay_(self.terms.scratch)
            self._rows.append(Rows(self.mlp.down, "inputs", copied=copied))
            self._rows[-1].lay_(self.terms.scratch)
            self._shrink()

    def lay_back(self) -> None:
        """See `GatedMlp`."""
        self._n = None
        lay_all_back(self._rows, self.terms.scratch)

    def up(self, index: int, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        if self._rows and torch.is_grad_enabled():
            self.refuse_gradients(x)
        if self._n is None:
            found: Tensor = self.mlp.ups[index].module.forward(x)
            return found
        if self.mlp.down.module._forward_pre_hooks:
            raise ValueError(
                "the neurons (mlp_act) are recorded or replaced, but only those that rule "
                f"'{self.terms.rule}' keeps are here. Gate with How(execution='masked')"
            )
        laid = self._rows[index]
        weight = laid.rows[: self._n]
        bias = None if laid.bias is None else laid.bias[: self._n]
        if not self.singly(x, weight.shape[1]):
            return functional.linear(x, weight, bias)
        assert self.backend is not None
        rows = rows_of(x, weight.shape[1])
        return rows_joined([self.backend.dense(weight, bias, row) for row in rows], x)

    def down(self, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        if self._n is not None:
            self._count(x, self._n / self.mlp.down.n_inputs)
            return self._down_compact(x, self._n)
        if self._kept is None:
            return self._down_dense(x)
        return self._down_masked(x, self._kept)

    def _count(self, x: Tensor, share: float) -> None:
        """Count the tokens of a call, all with the same kept fraction."""
        n_tokens = x.numel() // x.shape[-1]
        self.tally.add(share * n_tokens, n_tokens)

    def _down_compact(self, x: Tensor, n: int) -> Tensor:
        """The product of the kept neurons, which are all there are."""
        laid = self._rows[-1]
        if not self.singly(x, n):
            return functional.linear(x, laid.rows[:n].t(), laid.bias)
        assert self.backend is not None
        rows, backend = laid.rows[:n], self.backend
        found = [backend.largest(rows, laid.bias, row, None, n) for row in rows_of(x, n)]
        return rows_joined(found, x)

    def _down_dense(self, x: Tensor) -> Tensor:
        """The whole product, of tokens that are not counted."""
        self.tell(torch.ones_like(x, dtype=torch.bool), x)
        found: Tensor = self.mlp.down.module.forward(x)
        return found

    def _down_masked(self, x: Tensor, kept: Tensor) -> Tensor:
        """The product of the kept neurons among all of them; kept bool `[batch or 1, neuron]`."""
        mask = kept[:, None].expand(*self.shape_of(x), -1)
        self._count(x, n_kept(self._keep, x.shape[-1]) / x.shape[-1])
        self.tell(mask.reshape(-1, x.shape[-1]), x)
        return masked_product(self.mlp.down, x, mask.reshape(x.shape))


class StaticMlp(CompactMlp):
    """The set never changes: the neurons of largest mean score over the calibration sample."""

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        super().__init__(mlp, terms)
        assert terms.learned is not None
        scores = terms.learned.layers[mlp.layer].mean_scores
        self._scores = scores[None].to(mlp.down.weight.device)


class SequenceMlp(CompactMlp):
    """The set is chosen by each prompt, which is dense itself (GRIFFIN, arXiv 2404.01365).

    A call of several tokens is a prompt, and so is the first call with an empty cache. Calls of one
    token go on with the rows of the last prompt, in its order: beams of one prompt may change
    places, for they share a set. A prompt in several calls (chunked prefill) and tokens that are
    checked together (assisted decoding) are not served.
    """

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        super().__init__(mlp, terms)
        self._norms = output_norms(mlp.down.weight, 1 if mlp.down.rows == "outputs" else 0)
        self._real: Tensor | None = None
        self._starts = False

    def see_forward(self, real: Tensor | None, *, starts: bool) -> None:
        """See `GatedMlp`."""
        self._real, self._starts = real, starts

    def up(self, index: int, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        if index == 0:
            if self._starts or not self._continues(x):
                self.choose(None)
            self._starts = False
        return super().up(index, x)

    def _continues(self, x: Tensor) -> bool:
        """Whether a call goes on with the rows whose prompt was seen last."""
        n_rows, n_tokens = self.shape_of(x)
        return n_tokens == 1 and self._kept is not None and n_rows == len(self._kept)

    def down(self, x: Tensor) -> Tensor:
        """See `GatedMlp`."""
        shape = self.shape_of(x)
        if self._kept is not None or shape[1] == 1:
            return super().down(x)
        acts = x.reshape(*shape, -1)
        n_prompt = min(self.terms.how.prompt_tokens or shape[1], shape[1])
        scores = prompt_scores(self._without_padding(acts)[:, :n_prompt]) * self._norms
        if n_prompt == shape[1]:
            dense = self._down_dense(x)
            self.choose(scores)
            return dense
        return self._prompt_and_rest(x, acts, scores, n_prompt)

    def _without_padding(self, acts: Tensor) -> Tensor:
        """Neurons `[batch, token, neuron]`, all zero where a token only fills its row up."""
        real, (n_rows, n_tokens) = self._real, acts.shape[:2]
        if real is None or len(real) != n_rows or real.shape[1] < n_tokens:
            return acts
        return acts.masked_fill(~real[:, -n_tokens:, None].to(acts.device).bool(), 0)

    def _prompt_and_rest(self, x: Tensor, acts: Tensor, scores: Tensor, n_prompt: int) -> Tensor:
        """One call that holds a prompt and what follows it."""
        n = n_kept(self._keep, acts.shape[-1])
        mask = largest_mask(scores, n)[:, None].repeat(1, acts.shape[1], 1)
        mask[:, :n_prompt] = True
        n_tokens = acts.shape[0] * (acts.shape[1] - n_prompt)
        self.tally.add(n_tokens * n / acts.shape[-1], n_tokens)
        self.tell(mask.view(-1, acts.shape[-1]), x)
        return masked_product(self.mlp.down, x, mask)


def prompt_scores(acts: Tensor) -> Tensor:
    """How strong each neuron is over a prompt, each token's neurons first scaled to unit norm.

    Args:
        acts: `[batch, token, neuron]`, any float dtype.

    Returns:
        float32 `[batch, neuron]`; tokens whose neurons are all zero count nothing.

    Source: Dong et al. 2024 (GRIFFIN), equation 6.
    """
    acts = acts.detach().float()
    norms = acts.norm(dim=-1, keepdim=True)
    scores: Tensor = (acts / norms.where(norms > 0, 1)).norm(dim=1)
    return scores

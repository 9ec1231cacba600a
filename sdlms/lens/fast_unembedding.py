"""The same as the exact unembedding with a product in bfloat16, and what matters in float32.

- The rows of the unembedding are centred over the vocabulary. A softmax does not see it, and
  bfloat16, whose error is relative, does not spend its digits on what all logits share.
- Each row of logits comes less a guess of its 64th largest, by one more input of the product, so
  that rounding the result is finest where probability is.
- Rounding an input changes its length, and the likely tokens all lie in its direction: the logits
  are scaled back.
- The logits of the most probable tokens, those of the final state's, and of every token asked for
  are computed again in float32, and take the place of the rounded ones in all sums.

Logits are then the float32 product of the model's normed residual with its weights, also where the
model itself would round them to its own float16 or bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from sdlms.lens.rescoring import (
    Terms,
    expected_error,
    rank_corrections,
    replaced_mean,
    replaced_normalizer,
)
from sdlms.lens.sweeping import (
    BEYOND,
    Sums,
    Swept,
    Tiling,
    count_larger_,
    largest,
    logits_at,
    sweep,
    tiling_of,
)
from sdlms.lens.unembedding import Measured, measured_of
from sdlms.models.unembedding import unembedding_input, unembedding_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = 32
MORE_CANDIDATES = 128  # of final states, and where the others are too few
TOLERATED = 2e-5  # standard deviation of a row's largest probability
SAMPLED = 64  # one token in so many makes the guess
GATHERED_NUMBERS = 2**20
ALIGNMENT = 16


class FastUnembedding:
    """A product in bfloat16, and what matters of it again in float32; on the CPU, without cap."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights in bfloat16, centred; the model's own serve for the rest."""
        self._model = model
        head = unembedding_of(model)
        self._weight = head.weight.detach()
        self._bias = None if head.bias is None else head.bias.detach().float()
        self.d_vocab, self._d_in = self._weight.shape
        self._tiling = tiling_of(self.d_vocab)
        self._mean = self._weight.mean(0, dtype=torch.float64).float()
        self._mean_bias = 0.0 if self._bias is None else float(self._bias.mean())
        self._copies = self._centred()
        self._sample = self._copies.flatten(0, 1)[: self.d_vocab : SAMPLED].clone()

    def _centred(self) -> Tensor:
        """`[tile, column, input]` bfloat16: weights, the bias in two parts, a 1, zeros."""
        tiling, d_in = self._tiling, self._d_in
        d_padded = -(-(d_in + 3) // ALIGNMENT) * ALIGNMENT
        shape = (tiling.n_tiles, tiling.width, d_padded)
        copies = torch.zeros(shape, dtype=torch.bfloat16)
        copies[:, :, d_in] = BEYOND
        copies[:, :, d_in + 2] = 1
        for tile in range(tiling.n_tiles):
            columns = tiling.columns(tile)
            weight = self._weight[columns].float()
            bias = torch.zeros(len(weight))
            if self._bias is not None:
                bias = self._bias[columns] - self._mean_bias
            copy = copies[tile, : len(weight)]
            copy[:, :d_in] = weight - self._mean
            copy[:, d_in] = bias
            copy[:, d_in + 1] = bias - copy[:, d_in].float()
        return copies

    @torch.no_grad()
    def measure(self, states: Tensor, wanted: Tensor, n_top: int) -> Measured:
        """See `Unembedding`. Ranks beyond the candidates count bfloat16 logits."""
        shape = states.shape[:2]
        inputs = unembedding_input(self._model, states.flatten(0, 1)).float()
        product = _FastProduct(inputs, self._copies, self._sample)
        offset = inputs @ self._mean + (self._mean_bias + product.shift)
        exact = _ExactLogits(self._weight, self._bias, inputs, offset)
        asked = exact.of_tokens(wanted, shape[1])
        product.ask(asked.flatten(0, 1))
        kept = self._tiling.empty(len(inputs), torch.bfloat16, inputs.device)
        chunk = _Chunk(product, exact, sweep(product, kept, shape[1]), self._tiling)

        rows = torch.arange(len(inputs))
        ids, own = chunk.candidates(rows, max(CANDIDATES, 2 * n_top))
        sums = chunk.replaced(rows, own)
        ids, own = ids.view(*shape, -1), Terms(*(logits.view(*shape, -1) for logits in own))
        terms = Terms(chunk.kept(wanted, shape[1]), asked)
        ranks = 1 + product.counts.view(asked.shape) + rank_corrections(own, ids, terms, wanted)
        top, places = own.exact.topk(n_top)
        return measured_of(
            sums,
            offset.view(shape),
            (ids.gather(-1, places), top),
            (asked, ranks),
        )


class _FastProduct:
    """Rows times a centred copy in bfloat16, and a count of what is larger than some logits."""

    def __init__(self, inputs: Tensor, copies: Tensor, sample: Tensor) -> None:
        d_in = inputs.shape[1]
        rounded = torch.zeros((len(inputs), copies.shape[2]), dtype=torch.bfloat16)
        rounded[:, :d_in] = inputs
        rounded[:, d_in : d_in + 2] = 1
        guess = linear(rounded, sample).amax(-1)
        rounded[:, d_in + 2] = -guess
        known = rounded[:, :d_in].float()
        scale = torch.linalg.vecdot(known, inputs) / known.square().sum(-1)
        self.scale = scale.masked_fill(known.abs().amax(-1) == 0, 1)
        self.shift = guess.float() * self.scale
        self._inputs, self._copies = rounded, copies
        self._buffers = torch.empty((2, len(inputs), copies.shape[1]))

    def ask(self, asked: Tensor) -> None:
        """Count, from now on, logits larger than these, `[row, any]`."""
        self._asked, self.counts = asked, torch.zeros_like(asked)

    def tile(self, number: int, out: Tensor) -> Tensor:
        """See `Product`. What is kept has yet to be multiplied by `scale`."""
        torch.mm(self._inputs, self._copies[number].T, out=out)
        logits: Tensor = self._buffers[0]
        torch.mul(out, self.scale[:, None], out=logits)
        count_larger_(self.counts, logits, self._asked, self._buffers[1])
        return logits


class _ExactLogits(NamedTuple):
    """Logits in float32, less each row's offset.

    Attributes:
        weight: `[column, d_in]`, the model's own.
        bias: float32 `[column]`.
        inputs: float32 `[row, d_in]`.
        offset: float32 `[row]`.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    offset: Tensor

    def of_rows(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Of some rows the tokens `ids`, `[row, any]`."""
        found = torch.empty(ids.shape)
        at_once = max(1, GATHERED_NUMBERS // (ids.shape[1] * self.inputs.shape[1]))
        for first in range(0, len(ids), at_once):
            part = slice(first, first + at_once)
            weight = self.weight.index_select(0, ids[part].flatten()).float()
            weight = weight.view(*ids[part].shape, -1)
            torch.sum(weight.mul_(self.inputs[rows[part], None]), -1, out=found[part])
        return self._shifted(found, ids, self.offset[rows])

    def of_tokens(self, ids: Tensor, n_states: int) -> Tensor:
        """At every state of a token the tokens `ids`, `[token, any]`; `[token, state, any]`."""
        weight = self.weight[ids].float()
        found = torch.bmm(self.inputs.view(len(ids), n_states, -1), weight.mT)
        return self._shifted(found, ids[:, None], self.offset.view(-1, n_states))

    def _shifted(self, logits: Tensor, ids: Tensor, offset: Tensor) -> Tensor:
        """With bias, less offset."""
        bias: Tensor | float = 0.0 if self.bias is None else self.bias[ids]
        shifted: Tensor = logits + bias - offset[..., None]
        return shifted


class _Chunk(NamedTuple):
    """A pass over the vocabulary, and what corrects it."""

    product: _FastProduct
    exact: _ExactLogits
    swept: Swept
    tiling: Tiling

    def kept(self, ids: Tensor, n_states: int) -> Tensor:
        """Rounded logits of `ids`, `[token, any]`, at every state; `[token, state, any]`."""
        found = logits_at(self.swept, ids.repeat_interleave(n_states, 0))
        return (found * self.product.scale[:, None]).view(len(ids), n_states, -1)

    def candidates(self, rows: Tensor, n_candidates: int) -> tuple[Tensor, Terms]:
        """The most probable tokens of some rows: ids and logits, `[row, candidate]`."""
        n_candidates = min(n_candidates, self.tiling.d_vocab)
        rounded, ids = largest(self.swept, self.tiling, rows, n_candidates)
        rounded *= self.product.scale[rows, None]
        return ids, Terms(rounded, self.exact.of_rows(rows, ids))

    def replaced(self, rows: Tensor, own: Terms) -> Sums:
        """The sums after candidates took their places; at final states and in doubt, more of them.

        Args:
            rows: `[row]`, all of them.
            own: `[row, candidate]`.
        """
        before, mean, crossed = self.swept.sums
        n_tokens, n_states = before.shape
        normalizer, expected = _replaced(before.flatten(), mean.flatten(), own)
        finals = rows.view_as(before)[:, -1]
        doubtful = expected_error(normalizer, own) > TOLERATED
        doubtful[finals] = False
        some = torch.cat([finals, rows[doubtful]])
        ids, more = self.candidates(some, MORE_CANDIDATES)
        found = _replaced(before.flatten()[some], mean.flatten()[some], more)
        normalizer[some], expected[some] = found
        normalizer, ids = normalizer.view_as(before), ids[:n_tokens]
        crossed = replaced_mean(
            crossed,
            (before[:, -1:], normalizer[:, -1:]),
            Terms(*(logits[:n_tokens, None] for logits in more)),
            Terms(self.kept(ids, n_states), self.exact.of_tokens(ids, n_states)),
        )
        return Sums(normalizer, expected.view_as(before), crossed)


def _replaced(normalizer: Tensor, expected: Tensor, own: Terms) -> tuple[Tensor, Tensor]:
    """Normaliser and expected logit, `[row]`, after candidates took their places."""
    found = replaced_normalizer(normalizer, own)
    return found, replaced_mean(expected, (normalizer, found), own, own)

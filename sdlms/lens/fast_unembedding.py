"""The same as the exact unembedding with a product in bfloat16, and what matters in float32.

The logits of the most probable tokens, and of every token asked for, are computed in float32 and
take the place of the rounded ones in all sums. The others are off by a hundredth or so, which
averages out over many tokens if their errors are independent. To make them so:

- The rows of the unembedding are centred over the vocabulary. A softmax does not see it, and
  bfloat16, whose error is relative, does not spend its digits on what all logits share.
- Each row of logits comes less a guess of its 64th largest, by one more input of the product, so
  that rounding the result is finest where probability is.
- Weights are rounded up or down at random. Tokens that training never saw have the same weights:
  their errors must not be the same.
- Inputs are rounded in `ROUNDINGS` ways whose mean is exact, each for its part of the vocabulary,
  and the guess is shifted by as many fractions of the result's last digit.
- Near the last candidate, exact logits fade into rounded ones. Of tokens that are about equally
  probable, those that rounding enlarged would otherwise be replaced, and the rest be too small.

Probabilities are within 1e-4 of float32. An exception are models most of whose vocabulary has the
same weights: there 6e-4 was seen, more than 1e-4 in less than one row of 100.

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
    faded,
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
MORE_CANDIDATES = (128, 512)  # where those are too few; of final states the first of these
TOLERATED = 1.8e-5  # standard deviation of a row's largest probability
SAMPLED = 64  # one token in so many makes the guess
ROUNDINGS = 16
LAST_DIGIT = 2**-4  # of logits between 8 and 16 below the guess
GATHERED_NUMBERS = 2**20
ALIGNMENT = 16
EXTRA_INPUTS = 4  # the bias in two parts, the guess, its shift


class FastUnembedding:
    """A product in bfloat16, and what matters of it again in float32; on the CPU, without cap.

    The tokens of a tile are apart by the number of tiles, so that all tiles are alike. A column is
    a token's place when tile follows tile.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights in bfloat16, centred; the model's own serve for the rest."""
        self._model = model
        head = unembedding_of(model)
        self._weight = head.weight.detach()
        self._bias = None if head.bias is None else head.bias.detach().float()
        self.d_vocab, self._d_in = self._weight.shape
        self._tiling = tiling_of(self.d_vocab, ROUNDINGS)
        # Not mean(dtype=float64), which first makes a copy of all weights.
        sums = [
            rows.float().sum(0).double() for rows in torch.split(self._weight, self._tiling.width)
        ]
        self._mean = (torch.stack(sums).sum(0) / self.d_vocab).float()
        self._mean_bias = 0.0 if self._bias is None else float(self._bias.mean())
        self._copies = self._centred()
        self._sample = self._copies.flatten(0, 1)[::SAMPLED].clone()
        generator = torch.Generator().manual_seed(0)
        self._phases = torch.randint(ROUNDINGS, (self._d_in,), generator=generator)

    def _centred(self) -> Tensor:
        """`[tile, column, input]` bfloat16: weights, the bias in two parts, two times 1, zeros."""
        tiling, d_in = self._tiling, self._d_in
        d_padded = -(-(d_in + EXTRA_INPUTS) // ALIGNMENT) * ALIGNMENT
        shape = (tiling.n_tiles, tiling.width, d_padded)
        copies = torch.zeros(shape, dtype=torch.bfloat16)
        copies[:, :, d_in] = BEYOND
        copies[:, :, d_in + 2 : d_in + 4] = 1
        generator = torch.Generator().manual_seed(0)
        for tile in range(tiling.n_tiles):
            tokens = slice(tile, None, tiling.n_tiles)
            weight = self._weight[tokens].float() - self._mean
            digits = torch.randint(2**16, weight.shape, generator=generator, dtype=torch.int32)
            bias = torch.zeros(len(weight))
            if self._bias is not None:
                bias = self._bias[tokens] - self._mean_bias
            copy = copies[tile, : len(weight)]
            copy[:, :d_in] = _rounded(weight, digits)
            copy[:, d_in] = bias
            copy[:, d_in + 1] = bias - copy[:, d_in].float()
        return copies

    @torch.no_grad()
    def measure(self, states: Tensor, wanted: Tensor, n_top: int) -> Measured:
        """See `Unembedding`. Ranks beyond the candidates count bfloat16 logits."""
        shape = states.shape[:2]
        inputs = unembedding_input(self._model, states.flatten(0, 1)).float()
        product = _FastProduct(inputs, self._copies, self._sample, self._phases)
        offset = inputs @ self._mean + (self._mean_bias + product.shift)
        exact = _ExactLogits(self._weight, self._bias, inputs, offset)
        asked = exact.of_tokens(wanted, shape[1])
        product.ask(asked.flatten(0, 1))
        kept = self._tiling.empty(len(inputs), torch.bfloat16, inputs.device)
        chunk = _Chunk(exact, sweep(product, kept, shape[1]), self._tiling)

        rows = torch.arange(len(inputs))
        ids, own = chunk.candidates(rows, max(CANDIDATES, 2 * n_top))
        sums = chunk.replaced(rows, own)
        ids, own = ids.view(*shape, -1), Terms(*(logits.view(*shape, -1) for logits in own))
        terms = Terms(chunk.kept(wanted, shape[1]), asked)
        ranks = 1 + product.counts.view(asked.shape) + rank_corrections(own, ids, terms, wanted)
        top, places = own.exact.topk(n_top)
        return measured_of(sums, offset.view(shape), (ids.gather(-1, places), top), (asked, ranks))


def _rounded(values: Tensor, digits: Tensor) -> Tensor:
    """bfloat16 values, rounded away from 0 where what is cut off and `digits` reach 2**16."""
    return ((values.view(torch.int32) + digits) & -(2**16)).view(torch.float32).bfloat16()


def _steps(tiles: Tensor) -> Tensor:
    """How much less than with the guess alone a tile's logits are; any shape, float32."""
    return (tiles % ROUNDINGS).float() * (LAST_DIGIT / ROUNDINGS)


class _FastProduct:
    """Rows times a centred copy in bfloat16, and a count of what is larger than some logits."""

    def __init__(self, inputs: Tensor, copies: Tensor, sample: Tensor, phases: Tensor) -> None:
        n_rows, d_in = inputs.shape
        n_roundings = min(ROUNDINGS, len(copies))
        shape = (n_roundings, n_rows, copies.shape[2])
        self._inputs = torch.zeros(shape, dtype=torch.bfloat16)
        self._inputs[:, :, d_in : d_in + 2] = 1
        for number, rounded in enumerate(self._inputs):
            parts = (number + phases) % n_roundings * 2 + 1
            digits = (parts * (2**15 // n_roundings)).int()
            rounded[:, :d_in] = _rounded(inputs.contiguous(), digits)
        guess = linear(self._inputs[0], sample).amax(-1)
        self._inputs[:, :, d_in + 2] = -guess
        self._inputs[:, :, d_in + 3] = -_steps(torch.arange(n_roundings))[:, None]
        self.shift = guess.float()
        self._copies = copies
        self._buffers = torch.empty((2, n_rows, copies.shape[1]))

    def ask(self, asked: Tensor) -> None:
        """Count, from now on, logits larger than these, `[row, any]`."""
        self._asked, self.counts = asked, torch.zeros_like(asked)

    def tile(self, number: int, out: Tensor) -> Tensor:
        """See `Product`. To what is kept its tile's step has yet to be added."""
        torch.mm(self._inputs[number % len(self._inputs)], self._copies[number].T, out=out)
        logits: Tensor = self._buffers[0]
        torch.add(out, _steps(torch.tensor([number])), out=logits)
        count_larger_(self.counts, logits, self._asked, self._buffers[1])
        return logits


class _ExactLogits(NamedTuple):
    """Logits in float32, less each row's offset.

    Attributes:
        weight: `[token, d_in]`, the model's own.
        bias: float32 `[token]`.
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

    exact: _ExactLogits
    swept: Swept
    tiling: Tiling

    def kept(self, ids: Tensor, n_states: int) -> Tensor:
        """Rounded logits of `ids`, `[token, any]`, at every state; `[token, state, any]`."""
        tiles = ids % self.tiling.n_tiles
        columns = tiles * self.tiling.width + ids // self.tiling.n_tiles
        found = logits_at(self.swept, columns.repeat_interleave(n_states, 0))
        return found.view(len(ids), n_states, -1) + _steps(tiles)[:, None]

    def candidates(self, rows: Tensor, n_candidates: int) -> tuple[Tensor, Terms]:
        """The most probable tokens of some rows: ids and logits, `[row, candidate]`."""
        n_candidates = min(n_candidates, self.tiling.d_vocab)
        rounded, columns = largest(self.swept, rows, n_candidates)
        tiles = columns // self.tiling.width
        ids = columns % self.tiling.width * self.tiling.n_tiles + tiles
        ids = ids.clamp_max(self.tiling.d_vocab - 1)  # NaN counts as largest
        return ids, Terms(rounded + _steps(tiles), self.exact.of_rows(rows, ids))

    def replaced(self, rows: Tensor, own: Terms) -> Sums:
        """The sums after candidates took their places; at final states and in doubt, more of them.

        Args:
            rows: `[row]`, all of them.
            own: `[row, candidate]`.
        """
        before, _, crossed = self.swept.sums
        n_more, n_most = (max(count, own.exact.shape[1]) for count in MORE_CANDIDATES)
        n_tokens, n_states = before.shape
        normalizer, expected = self._replaced(rows, own)
        finals = rows.view_as(before)[:, -1]
        doubtful = expected_error(normalizer, own) > TOLERATED
        doubtful[finals] = False
        some = torch.cat([finals, rows[doubtful]])
        ids, more = self.candidates(some, n_more)
        normalizer[some], expected[some] = self._replaced(some, more)
        some = some[expected_error(normalizer[some], more) > TOLERATED]
        _, most = self.candidates(some, n_most)
        normalizer[some], expected[some] = self._replaced(some, most)
        normalizer, ids = normalizer.view_as(before), ids[:n_tokens]
        crossed = replaced_mean(
            crossed,
            (before[:, -1:], normalizer[:, -1:]),
            Terms(*(logits[:n_tokens, None] for logits in self._faded(more))),
            Terms(self.kept(ids, n_states), self.exact.of_tokens(ids, n_states)),
        )
        return Sums(normalizer, expected.view_as(before), crossed)

    def _replaced(self, rows: Tensor, own: Terms) -> tuple[Tensor, Tensor]:
        """Normaliser and expected logit, `[row]`, after candidates took their places."""
        before, mean = (sums.flatten()[rows] for sums in self.swept.sums[:2])
        own = self._faded(own)
        found = replaced_normalizer(before, own)
        return found, replaced_mean(mean, (before, found), own, own)

    def _faded(self, own: Terms) -> Terms:
        """Candidates as they go into sums; where they are the whole vocabulary, none fades."""
        return own if own.exact.shape[-1] == self.tiling.d_vocab else faded(own)

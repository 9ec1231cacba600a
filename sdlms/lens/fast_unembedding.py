"""The same as the exact unembedding with a product in bfloat16, and what matters in float32.

The logits of the most probable tokens, and of every token asked for, are computed in float32 and
take the place of the rounded ones in all sums. The others are off by a hundredth or so, which
averages out over many tokens if their errors are independent: `rounded` makes them so. Near the
last candidate, exact logits fade into rounded ones. Of tokens that are about equally probable,
those that rounding enlarged would otherwise be replaced, and the rest be too small.

Probabilities are within 1e-4 of float32, save for one row in 10,000 of trained models (2.3e-4
seen), where errors are not independent and more candidates do not help. An exception are models
most of whose vocabulary has the same weights: there 6e-4 was seen, more than 1e-4 in less than one
row of 100.

Logits are then the float32 product of the model's normed residual with its weights, also where the
model itself would round them to its own float16 or bfloat16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sdlms.lens.backends import Backend, BackendName, backend_of
from sdlms.lens.rescoring import (
    Terms,
    expected_error,
    faded,
    rank_corrections,
    replaced_mean,
    replaced_normalizer,
)
from sdlms.lens.rounded import RoundedWeights
from sdlms.lens.sweeping import Sums, Swept, logits_at
from sdlms.lens.unembedding import Measured, measured_of
from sdlms.models.unembedding import unembedding_input, unembedding_of
from sdlms.progress import LOGGER

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = (32, 128)  # more where those are too few; of final states always the last
MORE_CANDIDATES = (256, 512)
TOLERATED = 1.8e-5  # standard deviation of a row's largest probability


class FastUnembedding:
    """A product in bfloat16, and what matters of it again in float32; on the CPU, without cap.

    Attributes:
        backend: what does all but the product.
    """

    def __init__(self, model: PreTrainedModel, backend: BackendName = "auto") -> None:
        """Copy the weights in bfloat16, centred; the model's own serve for the rest.

        Raises:
            UserError: The compiled backend was asked for by name, and cannot be had.
        """
        self._model = model
        head = unembedding_of(model)
        self._weight = head.weight.detach().contiguous()
        self._bias = None if head.bias is None else head.bias.detach().float()
        self.d_vocab = len(self._weight)
        self.backend = backend_of(backend, self._weight.dtype, _tell)
        self._rounded = RoundedWeights(self._weight, self._bias)

    @torch.no_grad()
    def measure(self, states: Tensor, wanted: Tensor, n_top: int) -> Measured:
        """See `Unembedding`. Ranks beyond the candidates count bfloat16 logits."""
        shape = states.shape[:2]
        inputs = unembedding_input(self._model, states.flatten(0, 1)).float().contiguous()
        product = self._rounded.product(inputs, self.backend)
        offset = inputs @ self._rounded.mean + (self._rounded.mean_bias + product.shift)
        exact = _ExactLogits(self.backend, self._weight, self._bias, inputs, offset)
        asked = exact.of_tokens(wanted, shape[1])
        swept, counts = self.backend.sweep(product, asked.flatten(0, 1), shape[1])
        chunk = _Chunk(self.backend, exact, swept, self._rounded)
        few = max(CANDIDATES[0], 2 * n_top)
        sums, listed = chunk.replaced(few)

        few = min(few, self.d_vocab)
        ids, own = listed.ids[:, :few].view(*shape, -1), listed.terms(slice(None), few)
        own = Terms(*(logits.view(*shape, -1) for logits in own))
        terms = Terms(chunk.kept(wanted, shape[1]), asked)
        ranks = 1 + counts.view(asked.shape) + rank_corrections(own, ids, terms, wanted)
        top, places = own.exact.topk(n_top)
        return measured_of(sums, offset.view(shape), (ids.gather(-1, places), top), (asked, ranks))


def _tell(reason: str) -> None:
    """Say why the slower way is taken."""
    LOGGER.info(f"no compiled kernel for the lens, torch instead: {reason}")


class _ExactLogits(NamedTuple):
    """Logits in float32, less each row's offset.

    Attributes:
        backend: what multiplies.
        weight: `[token, d_in]`, the model's own.
        bias: float32 `[token]`.
        inputs: float32 `[row, d_in]`.
        offset: float32 `[row]`.
    """

    backend: Backend
    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    offset: Tensor

    def of_rows(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Of some rows the tokens `ids`, `[row, any]`."""
        found = self.backend.dots(self.weight, self.inputs[rows, None], ids)[:, 0]
        return self._shifted(found, ids, self.offset[rows])

    def of_tokens(self, ids: Tensor, n_states: int) -> Tensor:
        """At every state of a token the tokens `ids`, `[token, any]`; `[token, state, any]`."""
        inputs = self.inputs.view(len(ids), n_states, -1)
        found = self.backend.dots(self.weight, inputs, ids)
        return self._shifted(found, ids[:, None], self.offset.view(-1, n_states))

    def _shifted(self, logits: Tensor, ids: Tensor, offset: Tensor) -> Tensor:
        """With bias, less offset."""
        bias: Tensor | float = 0.0 if self.bias is None else self.bias[ids]
        shifted: Tensor = logits + bias - offset[..., None]
        return shifted


class _Listed(NamedTuple):
    """The most probable tokens of some rows, by rounded logits, falling; `[row, candidate]`.

    Attributes:
        rows: `[row]`.
        ids: int64.
        rounded: float32.
        exact: float32, as many as were computed.
    """

    rows: Tensor
    ids: Tensor
    rounded: Tensor
    exact: Tensor

    def terms(self, places: Tensor | slice, count: int) -> Terms:
        """Of some of the rows the first candidates."""
        return Terms(self.rounded[places, :count], self.exact[places, :count])


class _Chunk(NamedTuple):
    """A pass over the vocabulary, and what corrects it."""

    backend: Backend
    exact: _ExactLogits
    swept: Swept
    weights: RoundedWeights

    def kept(self, ids: Tensor, n_states: int) -> Tensor:
        """Rounded logits of `ids`, `[token, any]`, at every state; `[token, state, any]`."""
        columns = self.weights.columns_of(ids).repeat_interleave(n_states, 0)
        return logits_at(self.swept, columns).view(len(ids), n_states, -1)

    def replaced(self, few: int) -> tuple[Sums, _Listed]:
        """The sums after candidates took their places; at final states and in doubt, more of them.

        Returns:
            The sums, and what was listed of all rows, at least the first `few` exact.
        """
        before, _, crossed = self.swept.sums
        n_states, rows = before.shape[1], torch.arange(before.numel())
        normalizer, expected = torch.empty((2, len(rows)), dtype=torch.float64)
        counts = self._counts((few, *(count for count in CANDIDATES if count > few)))
        listed = self._listed(rows, counts[-1])
        is_final = rows % n_states == n_states - 1
        doubtful = self._replace_((normalizer, expected), listed, counts, is_final)
        counts = [count for count in self._counts(MORE_CANDIDATES) if count > counts[-1]]
        if counts and len(doubtful):
            more = self._listed(doubtful, counts[-1])
            self._replace_((normalizer, expected), more, counts, torch.zeros_like(is_final))
        normalizer, finals = normalizer.view_as(before), rows[is_final]
        final = self._faded(listed.terms(finals, listed.ids.shape[1]))
        ids = listed.ids[finals]
        crossed = replaced_mean(
            crossed,
            (before[:, -1:], normalizer[:, -1:]),
            Terms(*(logits[:, None] for logits in final)),
            Terms(self.kept(ids, n_states), self.exact.of_tokens(ids, n_states)),
        )
        return Sums(normalizer, expected.view_as(before), crossed), listed

    def _counts(self, counts: tuple[int, ...]) -> list[int]:
        """How many candidates to try in turn, none more than there are tokens."""
        return sorted({min(count, self.weights.tiling.d_vocab) for count in counts})

    def _listed(self, rows: Tensor, count: int) -> _Listed:
        """The most probable tokens of some rows, none of them computed yet."""
        rounded, columns = self.backend.largest(self.swept, rows, count)
        return _Listed(rows, self.weights.ids_of(columns), rounded, torch.empty_like(rounded))

    def _replace_(
        self, sums: tuple[Tensor, Tensor], listed: _Listed, counts: list[int], always: Tensor
    ) -> Tensor:
        """Compute more and more candidates where there is doubt, and put them in their places.

        Args:
            sums: normaliser and expected logit, `[row]`, of which those listed are filled.
            listed: of some rows.
            counts: how many to compute, rising.
            always: bool `[row]`, where all of them are wanted.

        Returns:
            The rows where doubt is left.
        """
        places, known = torch.arange(len(listed.rows)), 0
        for count in counts:
            rows = listed.rows[places]
            found = self.exact.of_rows(rows, listed.ids[places, known:count])
            listed.exact[places, known:count] = found
            own = listed.terms(places, count)
            for place, value in zip(sums, self._replaced(rows, own), strict=True):
                place[rows] = value
            doubtful = expected_error(sums[0][rows], own) > TOLERATED
            places, known = places[doubtful | always[rows]], count
        return rows[doubtful]

    def _replaced(self, rows: Tensor, own: Terms) -> tuple[Tensor, Tensor]:
        """Normaliser and expected logit, `[row]`, after candidates took their places."""
        before, mean = (sums.flatten()[rows] for sums in self.swept.sums[:2])
        own = self._faded(own)
        found = replaced_normalizer(before, own)
        return found, replaced_mean(mean, (before, found), own, own)

    def _faded(self, own: Terms) -> Terms:
        """Candidates as they go into sums; where they are the whole vocabulary, none fades."""
        return own if own.exact.shape[-1] == self.weights.tiling.d_vocab else faded(own)

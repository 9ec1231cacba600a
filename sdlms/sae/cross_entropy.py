"""What a model loses when a site is replaced: by a reconstruction, by zeros, by its mean.

Documents are run one batch after another. Of each batch the whole model runs once; for each
replacement only the blocks from the replaced one on, and the unembedding of what is scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, check_causal
from sdlms.models.batching import longest_first, run_batches
from sdlms.models.forward import padded_inputs
from sdlms.models.replacing import Replace, replacing, run_once
from sdlms.models.scoring import losses_of
from sdlms.models.spreading import input_device
from sdlms.numerics.ratio_bootstrap import ratio_interval
from sdlms.progress import LOGGER, Progress
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LEAST_DENOMINATOR_NATS = 0.05
Sums = NDArray[np.float64]


def check_replaceable(config: "PreTrainedConfig", site: str) -> None:
    """Make sure that a causal model of this config has `site`, token by token, to be replaced.

    Every site of the architecture table can be replaced in every causal model of the table. What
    cannot is an encoder (it predicts no next token) and whatever is no site of a model: latents,
    or activations that come from elsewhere. Pooled activations have sites but no tokens; whoever
    reads them knows.

    Raises:
        UserError: it has not.
    """
    check_causal(config)
    if site not in SITES:
        raise UserError(
            f"cross-entropy cannot replace '{site}': it is no site of a model. "
            f"Take activations of {', '.join(SITES)}."
        )


def zeros(acts: Tensor) -> Tensor:
    """Zero ablation, a `Replace`."""
    return torch.zeros_like(acts)


def constant(mean: Tensor) -> Replace:
    """Mean ablation: each row becomes `mean`, `[unit]` on the device of the model."""
    return lambda acts: mean.to(acts).expand_as(acts)


class Losses(NamedTuple):
    """Sums of next-token losses over each document, in nats.

    Attributes:
        documents: `[document]` int64, which documents of the rows they are, ascending: those in
            which anything is scored.
        counts: `[document]` int64 > 0, tokens that are scored.
        clean: `[document]` float64, without any replacement.
        replaced: `[replacement, document]` float64.
    """

    documents: NDArray[np.int64]
    counts: NDArray[np.int64]
    clean: Sums
    replaced: Sums


@dataclass
class Scoring:
    """Documents and the model that predicts them.

    Replaced are the tokens of mask 1; scored is every token whose predecessor has mask 1.

    Attributes:
        model: a causal model in evaluation mode, on its device or spread over several.
        rows: tokens, mask and documents.
        budget: tokens in a batch, padding included; it halves when memory runs out.
        on_halved: told the new budget each time.
    """

    model: "PreTrainedModel"
    rows: Rows
    budget: int
    on_halved: Callable[[int], None] = field(default=lambda _: None)

    def losses(self, site: Site, layer: int, replacements: Sequence[Replace]) -> Losses:
        """Run all documents that have a token to score, once for each replacement.

        Args:
            site: what is replaced; `check_replaceable` was asked.
            layer: from 0.
            replacements: each takes the tokens of a batch, `[row, unit]` float32 on the device of
                the site, which it must not change in place, and gives the same shape. What it gives
                is cast to the model's type.

        Raises:
            UserError: a single document does not fit the memory.
        """
        counts = self._counts()
        documents = np.flatnonzero(counts)
        sums = np.zeros((1 + len(replacements), self.rows.n_documents))
        lengths = np.where(counts > 0, self.rows.lengths, 0)
        label = f"cross-entropy of {site}, layer {layer}"
        forward = partial(self._batch, site, layer, replacements)
        order = longest_first(lengths)
        with Progress(label, int(lengths.sum()), "tokens") as progress:
            batches = run_batches(order, lengths, self.budget, forward, self._halved)
            for batch, found, budget in batches:
                self.budget = budget
                sums[:, batch] = found
                progress.advance(int(lengths[batch].sum()))
        kept = sums[:, documents]
        return Losses(documents, counts[documents], kept[0], kept[1:])

    def _counts(self) -> NDArray[np.int64]:
        """`[document]` tokens to score: mask 1 but the last of the document."""
        ends = self.rows.offsets[1:]
        scored = self.rows.mask.astype(np.int64)
        scored[ends[self.rows.lengths > 0] - 1] = 0
        return np.diff(np.concatenate([[0], np.cumsum(scored)])[self.rows.offsets])

    @torch.no_grad()
    def _batch(
        self, site: Site, layer: int, replacements: Sequence[Replace], documents: list[int]
    ) -> Sums:
        """`[1 + replacement, batch]` sums of one batch, the clean ones first."""
        device = input_device(self.model)
        input_ids, _ = padded_inputs(self.rows, documents, device, causal=True)
        pieces = [slice(*self.rows.offsets[d : d + 2]) for d in documents]
        masks = [torch.from_numpy(self.rows.mask[piece] > 0) for piece in pieces]
        mask = pad_sequence(masks, batch_first=True).to(device)
        scored = pad_sequence([m[:-1] for m in masks], batch_first=True).to(device)
        rerun = run_once(self.model, layer, input_ids)
        sums = [self._sums(rerun.resid, input_ids, scored)]
        for replacement in replacements:
            with replacing(self.model, layer, site, at_tokens(mask, replacement)):
                sums.append(self._sums(rerun.again(), input_ids, scored))
        return np.stack(sums)

    def _sums(self, resid: Tensor, input_ids: Tensor, scored: Tensor) -> Sums:
        """`[batch]` summed losses of the scored tokens."""
        rows = scored.nonzero()
        sources = resid[:, :-1][scored.to(resid.device)]
        losses = losses_of(self.model, sources, input_ids[:, 1:][scored])
        weights = losses.double().cpu().numpy()
        sums = np.bincount(rows[:, 0].cpu().numpy(), weights, minlength=len(input_ids))
        return sums.astype(np.float64, copy=False)

    def _halved(self, budget: int) -> None:
        """Say so: in the log and, through the caller, in the run's record."""
        LOGGER.warning("out of memory: batches are halved to %d tokens", budget)
        self.on_halved(budget)


def at_tokens(mask: Tensor, replacement: Replace) -> Replace:
    """Replace only some tokens, which are handed over as float32 rows.

    Args:
        mask: `[batch, token]` bool.
        replacement: from `[row, unit]` float32 to the same shape.

    Returns:
        A replacement of `[batch, token, unit]` of any float dtype.
    """

    def replace(acts: Tensor) -> Tensor:
        chosen = mask.to(acts.device)
        changed = acts.clone()
        changed[chosen] = replacement(acts[chosen].float()).to(acts.dtype)
        return changed

    return replace


class Recovered(NamedTuple):
    """Cross-entropy recovered, with its interval over documents.

    Attributes:
        value: 1 where the replacement loses nothing, 0 where it loses as much as the ablation; may
            lie outside [0, 1]; NaN where it says nothing.
        low: lower end of the 95 % interval; NaN where there is none.
        high: upper end.
        reason: why something is NaN; empty where nothing is.
    """

    value: float
    low: float
    high: float
    reason: str


def recovered(
    clean: Sums, ablated: Sums, replaced: Sums, counts: NDArray[np.int64], seed: int
) -> Recovered:
    """(CE ablated - CE replaced) / (CE ablated - CE clean), each a mean over all tokens.

    Args:
        clean: `[document]`, sums of losses as `Losses` has them.
        ablated: `[document]`, those under zero or mean ablation.
        replaced: `[document]`, those under the replacement in question.
        counts: `[document]`, tokens scored.
        seed: of the 1,000 resamples of documents.
    """
    nan = float("nan")
    above, below = ablated - replaced, ablated - clean
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        return Recovered(nan, nan, nan, "a loss is not finite")
    if not len(counts):
        return Recovered(nan, nan, nan, "no token is scored")
    lost_nats = float(below.sum() / counts.sum())
    if lost_nats < LEAST_DENOMINATOR_NATS:
        reason = f"ablation costs {lost_nats:.3g} nats, under {LEAST_DENOMINATOR_NATS}"
        return Recovered(nan, nan, nan, reason)
    low, high = ratio_interval(above, below, seed=seed)
    reason = "" if np.isfinite(low) else _no_interval(len(counts))
    return Recovered(float(above.sum() / below.sum()), low, high, reason)


def _no_interval(n_documents: int) -> str:
    """Why `ratio_interval` gives none."""
    if n_documents < 2:
        return "no interval from one document"
    return "no interval: the ablation costs nothing in too many resamples"

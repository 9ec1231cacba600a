"""From states to what a lens says of them, a chunk of rows at a time, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear

from sdlms.errors import UserError
from sdlms.lens.sweeping import (
    BEYOND,
    Sums,
    Tiling,
    count_larger_,
    largest,
    logits_at,
    sweep,
    tiling_of,
)
from sdlms.models.architectures import architecture_for, text_config
from sdlms.models.unembedding import capped, unembedding_input, unembedding_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

UnembedDtype = Literal["float32", "bfloat16"]
LEAST_VOCABULARY = 8192  # below, what the fast path does beside its product costs more


class Measured(NamedTuple):
    """What is known of some tokens, on the CPU, `[token, state]` and one more axis where named.

    Attributes:
        top_ids: int64 `[.., n_top]`.
        top_log_probabilities: float64 `[.., n_top]`.
        entropy_nats: float64.
        log_normalizer: float64.
        kl_to_final_nats: float64.
        log_probabilities: float64 `[.., wanted]`, of the wanted tokens.
        ranks: float32 `[.., wanted]`, whole numbers.
    """

    top_ids: Tensor
    top_log_probabilities: Tensor
    entropy_nats: Tensor
    log_normalizer: Tensor
    kl_to_final_nats: Tensor
    log_probabilities: Tensor
    ranks: Tensor


class Unembedding(Protocol):
    """What is prepared once per model; measures chunks."""

    d_vocab: int

    def measure(self, states: Tensor, wanted: Tensor, n_top: int) -> Measured:
        """Measure `[token, state, d_model]`, last state final; wanted ids are `[token, wanted]`."""
        ...


def unembed_dtype_for(
    name: Literal["auto", "float32", "bfloat16"], device: torch.device, config: PreTrainedConfig
) -> UnembedDtype:
    """The dtype of the product with the vocabulary, by capability; needs no weights.

    `auto` is bfloat16 on a CPU that multiplies it in hardware, where the vocabulary has
    `LEAST_VOCABULARY` tokens or more and the model leaves its logits as they are.

    Raises:
        UserError: bfloat16 is asked for where it cannot be had, or the architecture table does not
            describe the model.
    """
    attribute = architecture_for(config).logit_cap
    cap = getattr(text_config(config), attribute) if attribute else None
    if name == "bfloat16" and (cap is not None or device.type != "cpu"):
        reason = f"logits capped at {cap}" if cap is not None else f"a model on {device.type}"
        raise UserError(
            f"--unembed bfloat16 is for models on the CPU without a cap, not for {reason}; "
            "use --unembed float32."
        )
    if name != "auto":
        return name
    large = int(text_config(config).vocab_size) >= LEAST_VOCABULARY
    capable = cap is None and large and device.type == "cpu" and _multiplies_bfloat16()
    return "bfloat16" if capable else "float32"


def unembed_dtype_of(
    name: Literal["auto", "float32", "bfloat16"], model: PreTrainedModel
) -> UnembedDtype:
    """`unembed_dtype_for` of a loaded model."""
    return unembed_dtype_for(name, model.device, model.config)


def _multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for it, and torch the library that uses them."""
    features = torch.cpu.get_capabilities()
    known = any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return known and bool(torch._C._has_mkldnn)


class ExactUnembedding:
    """Every logit in float32: the model's own, or what it rounds to its own half precision."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.d_vocab = len(unembedding_of(model).weight)
        self._tiling = tiling_of(self.d_vocab)

    @torch.no_grad()
    def measure(self, states: Tensor, wanted: Tensor, n_top: int) -> Measured:
        """See `Unembedding`."""
        shape = states.shape[:2]
        inputs = unembedding_input(self._model, states.flatten(0, 1)).float()
        product = _ExactProduct(self._model, inputs, self._tiling)
        kept = self._tiling.empty(len(inputs), torch.float32, inputs.device)
        swept = sweep(product, kept, shape[1])
        rows = torch.arange(len(inputs), device=inputs.device)
        top, ids = largest(swept, rows, n_top)
        ids = ids.clamp_max(self.d_vocab - 1)
        asked = logits_at(swept, wanted.repeat_interleave(shape[1], 0))
        ranks, buffer = torch.ones_like(asked), torch.empty_like(kept[0])
        for logits in kept:
            count_larger_(ranks, logits, asked, buffer)
        return measured_of(
            swept.sums,
            product.shift.cpu().view(shape),
            (ids.cpu().view(*shape, -1), top.cpu().view(*shape, -1)),
            (asked.cpu().view(*shape, -1), ranks.cpu().view(*shape, -1)),
        )


class _ExactProduct:
    """Rows times the model's weights, less each row's largest of the first tile."""

    def __init__(self, model: PreTrainedModel, inputs: Tensor, tiling: Tiling) -> None:
        self._model, self._inputs, self._tiling = model, inputs, tiling
        self.steps = torch.zeros(tiling.n_tiles, device=inputs.device)
        self._first = self._logits(0)
        self.shift = self._first.amax(-1)

    def _logits(self, number: int) -> Tensor:
        """float32 `[row, column]`, only the columns that are tokens."""
        head, columns = unembedding_of(self._model), self._tiling.columns(number)
        bias = None if head.bias is None else head.bias[columns].float()
        return capped(self._model, linear(self._inputs, head.weight[columns].float(), bias))

    def tile(self, number: int, out: Tensor) -> Tensor:
        """See `Product`."""
        found = self._logits(number) if number else self._first
        torch.sub(found, self.shift[:, None], out=out[:, : found.shape[1]])
        out[:, found.shape[1] :] = BEYOND
        return out


def measured_of(
    sums: Sums, offset: Tensor, top: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]
) -> Measured:
    """Logits, each row's less its `offset`, become log-probabilities.

    Args:
        sums: over them.
        offset: `[token, state]`.
        top: ids and logits of the most probable tokens.
        asked: logits and ranks of the wanted tokens.
    """
    negative_entropy = sums.expected - sums.normalizer
    kl = (negative_entropy[:, -1:] - (sums.crossed - sums.normalizer)).clamp_min(0)
    kl[:, -1] *= 0  # NaN stays
    return Measured(
        top[0],
        top[1] - sums.normalizer[..., None],
        (-negative_entropy).clamp_min(0),
        sums.normalizer + offset,
        kl,
        asked[0] - sums.normalizer[..., None],
        asked[1],
    )

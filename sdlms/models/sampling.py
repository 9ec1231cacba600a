"""Choosing the next token from logits: greedily, or at random from the most probable ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlms.errors import UserError

N_LIKELY = 1024
HOTTEST = 100  # temperature
LONGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a reply is generated.

    Attributes:
        temperature: logits are divided by it; 0 takes the most probable token (greedy).
        top_p: only the most probable tokens that together reach this probability, in (0, 1].
        seed: of the draws; idle when greedy.
        max_new_tokens: the reply ends after this many tokens at the latest.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a value is outside its range.
        """
        if not 0 <= self.temperature <= HOTTEST:
            raise UserError(f"temperature must be in [0, {HOTTEST}], got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be in (0, 1], got {self.top_p}.")
        if not 0 <= self.seed <= LONGEST_SEED:
            raise UserError(f"seed must be in [0, 2^63), got {self.seed}.")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}.")

    def generator(self) -> torch.Generator:
        """The source of the draws of one reply."""
        return torch.Generator().manual_seed(self.seed)


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id.

    Args:
        logits: `[d_vocab]`, any float dtype and device; minus infinity excludes a token.
        sampling: greedy, or temperature and top_p.
        generator: a CPU generator; one number is drawn from it per token, none when greedy.

    Raises:
        UserError: the logits hold NaN or infinity, as weights do that overflow in 16 bits.
    """
    highest, token_id = logits.max(dim=0)  # NaN where any logit is NaN
    if not torch.isfinite(highest):
        raise UserError(
            f"the model's logits are not finite ({highest.item()}), so there is no next token. "
            "Load it in float32: --dtype float32."
        )
    if sampling.temperature == 0:
        return int(token_id)
    exponents = (logits.detach().cpu().double() - float(highest)) / sampling.temperature
    probabilities = torch.softmax(exponents, dim=0)
    if sampling.top_p < 1:
        ids = nucleus(probabilities, sampling.top_p)
        return int(ids[_drawn(probabilities[ids], generator)])
    return _drawn(probabilities, generator)


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Ids of the fewest most probable tokens that together reach `top_p`; at least one.

    Args:
        probabilities: `[d_vocab]`.
        top_p: in (0, 1].

    Returns:
        `[n]` int64, most probable first.
    """
    # The whole vocabulary is sorted only where the likely ones do not reach top_p.
    for n_sorted in (min(N_LIKELY, len(probabilities)), len(probabilities)):
        likely, ids = probabilities.topk(n_sorted)
        reached = likely.cumsum(0)
        if reached[-1] >= top_p:
            break
    n_kept = int((reached < top_p).sum()) + 1
    return ids[:n_kept]


def _drawn(weights: Tensor, generator: torch.Generator) -> int:
    """An index drawn in proportion to its weight; one of weight 0 never is."""
    reached = weights.cumsum(0)
    threshold = torch.rand((), generator=generator, dtype=torch.float64) * reached[-1]
    return int(torch.searchsorted(reached, threshold, right=True))

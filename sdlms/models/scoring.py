"""How badly a causal model predicts next tokens, without all its logits at once."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from sdlms.models.unembedding import logits_of, unembedding_of

# Numbers, held about three times in float32. On a CPU few stay in the cache (2**20 is 2.5 to 3
# times as fast as 2**24 for a vocabulary of 3,072); a product of few rows is slow everywhere.
LOGITS_AT_ONCE = {"cpu": 2**20, "mps": 2**24, "cuda": 2**24}
LEAST_ROWS = 128


@torch.no_grad()
def losses_of(model: PreTrainedModel, resid: Tensor, targets: Tensor) -> Tensor:
    """The loss of each prediction that a model makes of a residual after its last block.

    Logits exist for `LOGITS_AT_ONCE` numbers or `LEAST_ROWS` rows at a time, whichever is more, and
    are upcast to float32 before the softmax.

    Args:
        model: A causal model.
        resid: `[row, d_model]`, raw residuals; any float dtype.
        targets: `[row]` int64, the token that follows.

    Returns:
        `[row]` float32 >= 0, in nats, where the targets are.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `model` carries no head.
    """
    losses = torch.empty(targets.shape, dtype=torch.float32, device=targets.device)
    d_vocab = len(unembedding_of(model).weight)
    at_once = max(LEAST_ROWS, LOGITS_AT_ONCE[resid.device.type] // d_vocab)
    for first in range(0, len(targets), at_once):
        rows = slice(first, first + at_once)
        logits = logits_of(model, resid[rows]).float()
        losses[rows] = cross_entropy(logits, targets[rows].to(logits.device), reduction="none")
    return losses

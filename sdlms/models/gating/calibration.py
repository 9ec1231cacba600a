"""Learn from a sample what rules must know, in one dense forward, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from sdlms.models.architectures import activation_name, architecture_for, check_causal
from sdlms.models.gating.allocation import Sample, allocate
from sdlms.models.gating.layouts import Mlp, mlps_of
from sdlms.models.gating.learned import QUANTILES, SHARES, Learned, LearnedLayer
from sdlms.models.gating.rules import RULES
from sdlms.models.gating.scoring import magnitudes, output_norms

Communities = Mapping[int, NDArray[np.int64]]
MAX_SORTED = 2**22  # values whose quantiles are taken; more are thinned out evenly
ROWS_AT_ONCE = 256  # tokens whose scores are sorted at once


@torch.no_grad()
def learn(
    model: PreTrainedModel,
    input_ids: Tensor,
    layers: tuple[int, ...] | None = None,
    blocks: Communities | None = None,
    rules: Sequence[str] = tuple(RULES),
) -> Learned:
    """What rules must know of a model's MLPs, from one dense forward over a sample.

    Args:
        model: A causal model or its base model, in evaluation mode.
        input_ids: `[window, token]` int64; every token counts.
        layers: The layers to learn; None for all.
        blocks: Layer -> int64 `[neuron]`, the community of each neuron and -1 where it has none.
        rules: Those that will be used. Only `input` is expensive: it costs about a hundred
            products of each matrix with 128 tokens.

    Returns:
        Summaries only: about 70 kB and 12 bytes per neuron for each layer.

    Raises:
        UserError: The model is an encoder, or its MLPs cannot be gated.
        ValueError: The model is in training mode, or the sample is empty.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if not input_ids.numel():
        raise ValueError("the calibration sample has no tokens")
    check_causal(model.config)
    activation = activation_name(model.config) if "input" in rules else None
    learners = [_Learner(mlp, activation) for mlp in mlps_of(model, layers)]
    added = architecture_for(model.config).mlp_out
    with ExitStack() as hooks:
        for learner in learners:
            for hook in learner.hooks(added):
                hooks.callback(hook.remove)
        model.base_model(input_ids=input_ids.to(model.device), use_cache=False)
    return Learned({learner.mlp.layer: learner.learned(blocks) for learner in learners})


class _Learner:
    """What one layer learns while the forward passes it; the allocation with an activation only."""

    def __init__(self, mlp: Mlp, activation: str | None) -> None:
        self.mlp = mlp
        self._activation = activation
        self._seen: dict[str, Tensor] = {}
        self._found: dict[str, Any] = {}

    def hooks(self, added: str) -> list[RemovableHandle]:
        """Hooks on the layer; `added` is the path whose output the MLP adds to the stream."""
        block = self.mlp.block
        return [
            self.mlp.ups[0].module.register_forward_pre_hook(self._see("inputs")),
            self.mlp.down.module.register_forward_pre_hook(self._see("neurons")),
            block.get_submodule(added).register_forward_hook(self._see("added")),
            block.register_forward_hook(self._see("resid")),
            block.register_forward_hook(self._learn),
        ]

    def _see(self, name: str) -> Callable[..., None]:
        """A hook that keeps the tensor that comes last in its call, `[token, unit]`."""

        def see(module: nn.Module, *call: Any) -> None:
            last = call[-1]
            tensor = last[0] if isinstance(last, tuple) else last
            self._seen[name] = tensor.reshape(-1, tensor.shape[-1])

        return see

    def _learn(self, *call: Any) -> None:
        """A hook of the block: all is there, and is summarised."""
        seen, self._seen = self._seen, {}
        inputs, neurons, down = seen["inputs"], seen["neurons"], self.mlp.down
        norms = output_norms(down.weight, 1 if down.rows == "outputs" else 0)
        curves = [quantiles_of(magnitudes(thinned(inputs), None))] * len(self.mlp.ups)
        curves.append(quantiles_of(magnitudes(thinned(neurons), None)))
        mean, held = summed_scores(neurons, norms)
        added, stream = (seen[name].float().square().sum(-1) for name in ("added", "resid"))
        sample = Sample(inputs, float(added.median()), float(stream.median()))
        self._found = {
            "scores": quantiles_of(magnitudes(thinned(neurons), norms)),
            "held": held,
            "mean_scores": mean,
            "inputs": tuple(curves),
            "allocation": self._activation
            and allocate(self.mlp, self._activation, sample, tuple(curves)),
        }

    def learned(self, blocks: Communities | None) -> LearnedLayer:
        """All of it."""
        block = None if blocks is None else blocks.get(self.mlp.layer)
        n_neurons = self.mlp.down.n_inputs
        if block is not None and block.shape != (n_neurons,):
            raise ValueError(f"blocks {block.shape} of a layer of {n_neurons} neurons")
        tensor = None if block is None else torch.from_numpy(block.astype(np.int64))
        return LearnedLayer(**self._found, block=tensor)


def thinned(acts: Tensor) -> Tensor:
    """Tokens `[token, unit]` at even distances, so that at most `MAX_SORTED` values remain."""
    return acts[:: -(-acts.numel() // MAX_SORTED)]


def quantiles_of(scores: Tensor) -> Tensor:
    """Quantiles of all scores at `QUANTILES`: float32 on the CPU, between ranks linear."""
    ranked = scores.flatten().sort().values
    place = QUANTILES.to(ranked.device, torch.float32 if ranked.is_mps else None) * (
        len(ranked) - 1
    )
    low = place.long()
    high = (low + 1).clamp(max=len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], (place - low).float()).cpu()


def summed_scores(neurons: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Mean score of every neuron, and how many neurons hold a share of a token's scores.

    Args:
        neurons: `[token, neuron]`, any float dtype.
        norms: float32 `[neuron]`.

    Returns:
        float32 `[neuron]`, and float64 `[share]`: the mean fraction of neurons, for `SHARES`.
    """
    n_tokens, n_neurons = neurons.shape
    sums = torch.zeros(n_neurons, dtype=torch.float64, device=neurons.device)
    counts = torch.zeros(len(SHARES), dtype=torch.float64, device=neurons.device)
    shares = SHARES.to(neurons.device)
    for part in torch.split(neurons, ROWS_AT_ONCE):
        scores = magnitudes(part, norms)
        sums += scores.sum(0)
        held = scores.sort(-1, descending=True).values.double().cumsum(-1)
        below = torch.searchsorted(held[:, :-1].contiguous(), shares * held[:, -1:])
        counts += (1 + below).sum(0)
    return (sums / n_tokens).float().cpu(), (counts / (n_tokens * n_neurons)).cpu()

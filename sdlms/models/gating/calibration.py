"""Learn from a sample what rules must know, in one dense pass, layer by layer."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from sdlms.models.architectures import activation_name, architecture_for, check_causal
from sdlms.models.batching import DEFAULT_BUDGET, run_batches
from sdlms.models.gating.allocation import MAX_TOKENS, Sample, allocate
from sdlms.models.gating.layouts import Mlp, mlps_of
from sdlms.models.gating.learned import QUANTILES, SHARES, Allocation, Learned, LearnedLayer
from sdlms.models.gating.rules import RULES
from sdlms.models.gating.scoring import magnitudes, output_norms
from sdlms.models.spreading import input_device
from sdlms.progress import LOGGER

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
    budget: int | None = None,
) -> Learned:
    """What rules must know of a model's MLPs, from one dense pass over a sample.

    Windows go through the model in batches. What is learned does not depend on the batches, beyond
    rounding. Of several batches at most 2 x `MAX_SORTED` values are held for each layer meanwhile.

    Args:
        model: A causal model or its base model, in evaluation mode.
        input_ids: `[window, token]` int64; every token counts.
        layers: The layers to learn; None for all.
        blocks: Layer -> int64 `[neuron]`, the community of each neuron and -1 where it has none.
        rules: Those that will be used. Only `input` is expensive: it costs about a hundred
            products of each matrix with 128 tokens.
        budget: Tokens in a batch, halved when memory runs out; None for what suits the device.

    Returns:
        Summaries only: about 70 kB and 12 bytes per neuron for each layer.

    Raises:
        UserError: The model is an encoder, its MLPs cannot be gated, or a single window does not
            fit into memory.
        ValueError: The model is in training mode, or the sample is empty.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if not input_ids.numel():
        raise ValueError("the calibration sample has no tokens")
    check_causal(model.config)
    activation = activation_name(model.config) if "input" in rules else None
    mlps = mlps_of(model, layers)
    learners = [_Learner(mlp, activation, input_ids.numel()) for mlp in mlps]
    added = architecture_for(model.config).mlp_out
    with ExitStack() as hooks:
        for learner in learners:
            for hook in learner.hooks(added):
                hooks.callback(hook.remove)
        _pass(model, input_ids, learners, budget or DEFAULT_BUDGET[model.device.type])
    return Learned({learner.mlp.layer: learner.learned(blocks) for learner in learners})


def _pass(
    model: PreTrainedModel, input_ids: Tensor, learners: Sequence["_Learner"], budget: int
) -> None:
    """Run the windows through the model, in order."""
    n_windows, length = input_ids.shape
    device = input_device(model)

    def forward(batch: list[int]) -> int:
        for learner in learners:
            learner.forget()
        model.base_model(input_ids=input_ids[batch].to(device), use_cache=False)
        return len(batch)

    lengths = np.full(n_windows, length, np.int64)
    for _ in run_batches(range(n_windows), lengths, budget, forward, _note_halved):
        for learner in learners:
            learner.keep()


def _note_halved(budget: int) -> None:
    LOGGER.warning("out of memory: batches of the calibration sample have %d tokens", budget)


class _Part(NamedTuple):
    """What one batch tells of a layer; all on the CPU.

    Attributes:
        n_tokens: of the batch.
        rows: by name, figures of tokens: those of several batches are laid end to end.
        sums: by name, figures that add up.
    """

    n_tokens: int
    rows: dict[str, Tensor]
    sums: dict[str, Tensor]


class _Learner:
    """What one layer learns while batches pass it; the allocation with an activation only.

    A batch counts when it is through the whole model (`keep`): it may run out of memory on the way,
    and come again in halves.
    """

    def __init__(self, mlp: Mlp, activation: str | None, n_tokens: int) -> None:
        self.mlp = mlp
        self._activation = activation
        self._n_tokens = n_tokens
        self._n_kept = 0
        self._rows: list[dict[str, Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._seen: dict[str, Tensor] = {}
        self._new: _Part | None = None
        self._found: dict[str, Any] = {}

    def forget(self) -> None:
        """A batch begins; what is left of one that failed is void."""
        self._seen, self._new = {}, None

    def keep(self) -> None:
        """The batch is through."""
        if self._new is not None:
            self._rows.append(self._new.rows)
            self._sums = self._added_to(self._new.sums)
            self._n_kept += self._new.n_tokens

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
        """A hook of the block: all of a batch is there; the last one is summarised at once."""
        seen, self._seen = self._seen, {}
        new = self._part(seen)
        if self._n_kept + new.n_tokens < self._n_tokens:
            self._new = new
        else:
            self._found = self._summary(new)

    def _part(self, seen: dict[str, Tensor]) -> _Part:
        """What is needed of a batch."""
        inputs, neurons = seen["inputs"], seen["neurons"]
        rows = {name: self._thinned(seen[name]) for name in ("inputs", "neurons")}
        if self._activation:
            apart = -(-self._n_tokens // MAX_TOKENS)
            rows["sample"] = self._taken(inputs, apart // 2, apart)
        for name in ("added", "resid"):
            rows[name] = seen[name].float().square().sum(-1).cpu()
        scores, counts = summed_scores(neurons, self._norms())
        return _Part(len(neurons), rows, {"scores": scores, "counts": counts})

    def _thinned(self, acts: Tensor) -> Tensor:
        """Tokens at even distances in the sample: at most `MAX_SORTED` values of all batches."""
        return self._taken(acts, 0, -(-self._n_tokens * acts.shape[-1] // MAX_SORTED))

    def _taken(self, acts: Tensor, first: int, apart: int) -> Tensor:
        """A copy of the batch's tokens among each `apart`-th of the sample from `first` on."""
        return acts[(first - self._n_kept) % apart :: apart].to("cpu", copy=True)

    def _norms(self) -> Tensor:
        """Of the neurons' output rows, where sorting is done."""
        down = self.mlp.down
        return for_sorting(output_norms(down.weight, 1 if down.rows == "outputs" else 0))

    def _added_to(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums of a batch and of those before it."""
        return {name: self._sums.get(name, 0) + value for name, value in sums.items()}

    def _summary(self, last: _Part) -> dict[str, Any]:
        """Of all batches."""
        parts = [*self._rows, last.rows]
        rows = {name: torch.cat([part[name] for part in parts]) for name in last.rows}
        sums, norms = self._added_to(last.sums), self._norms()
        inputs, neurons = (rows[name].to(norms.device) for name in ("inputs", "neurons"))
        curves = [quantiles_of(magnitudes(inputs, None))] * len(self.mlp.ups)
        curves.append(quantiles_of(magnitudes(neurons, None)))
        return {
            "scores": quantiles_of(magnitudes(neurons, norms)),
            "held": sums["counts"] / (self._n_tokens * self.mlp.down.n_inputs),
            "mean_scores": (sums["scores"] / self._n_tokens).float(),
            "inputs": tuple(curves),
            "allocation": self._allocation(rows, tuple(curves)),
        }

    def _allocation(self, rows: dict[str, Tensor], curves: tuple[Tensor, ...]) -> Allocation | None:
        """The deal of weights, where it is asked for."""
        if self._activation is None:
            return None
        inputs = rows["sample"].to(self.mlp.down.weight.device)
        sample = Sample(inputs, float(rows["added"].median()), float(rows["resid"].median()))
        return allocate(self.mlp, self._activation, sample, curves)

    def learned(self, blocks: Communities | None) -> LearnedLayer:
        """All of it."""
        block = None if blocks is None else blocks.get(self.mlp.layer)
        n_neurons = self.mlp.down.n_inputs
        if block is not None and block.shape != (n_neurons,):
            raise ValueError(f"blocks {block.shape} of a layer of {n_neurons} neurons")
        tensor = None if block is None else torch.from_numpy(block.astype(np.int64))
        return LearnedLayer(**self._found, block=tensor)


def for_sorting(values: Tensor) -> Tensor:
    """Where they are sorted: on CUDA those that are there, on the CPU all others.

    On the CPU numpy sorts, three to five times as fast as torch, which notes places as well.
    """
    return values if values.is_cuda else values.cpu()


def quantiles_of(scores: Tensor) -> Tensor:
    """Quantiles of all scores at `QUANTILES`: float32 on the CPU, between ranks linear."""
    scores = for_sorting(scores)
    if scores.is_cuda:
        ranked = scores.flatten().sort().values
    else:
        ranked = torch.from_numpy(np.sort(scores.numpy(), axis=None))
    place = QUANTILES.to(ranked.device) * (len(ranked) - 1)
    low = place.long()
    high = (low + 1).clamp(max=len(ranked) - 1)
    return torch.lerp(ranked[low], ranked[high], (place - low).float()).cpu()


def summed_scores(neurons: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of every neuron, and how many neurons hold a share of a token's scores: sums.

    Args:
        neurons: `[token, neuron]`, any float dtype.
        norms: float32 `[neuron]`, on the device where `for_sorting` brings the neurons.

    Returns:
        float64 `[neuron]` and float64 `[share]`, for `SHARES`; summed over tokens, on the CPU.
    """
    sums = torch.zeros(neurons.shape[1], dtype=torch.float64, device=norms.device)
    counts = torch.zeros(len(SHARES), dtype=torch.float64, device=norms.device)
    shares = SHARES.to(norms.device)
    for part in torch.split(neurons, ROWS_AT_ONCE):
        scores = magnitudes(for_sorting(part), norms)
        sums += scores.sum(0)
        held = _held(scores)
        counts += (1 + torch.searchsorted(held, shares * held[:, -1:])).sum(0)
    return sums.cpu(), counts.cpu()


def _held(scores: Tensor) -> Tensor:
    """The sum of each token's n largest scores, for all n: float64 `[token, neuron]`."""
    if scores.is_cuda:
        return scores.sort(-1, descending=True).values.double().cumsum(-1)
    ranked = np.sort(scores.numpy(), axis=-1)[:, ::-1]
    return torch.from_numpy(np.cumsum(ranked, axis=-1, dtype=np.float64))

"""Record sites of a base model while it runs, and stop it as soon as all are recorded.

Sites and layer numbering: `sdlms.models.architectures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from sdlms.models.architectures import Architecture, Site, architecture_of, blocks_of

Key = tuple[Site, int]
Keep = Callable[[Key, Tensor], Any]


class _AllRecorded(Exception):
    """Ends a forward that has nothing left to record."""


class Recording:
    """The forwards of one `recording` context."""

    def __init__(self, model: PreTrainedModel, keys: frozenset[Key]) -> None:
        self._model = model
        self._keys = keys
        self._shape: torch.Size | None = None
        self._recorded: dict[Key, Any] = {}
        self._keep: Keep | None = None

    def run(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[Key, Tensor]:
        """Run the model until everything asked for is recorded; no gradients, no cache.

        Args:
            input_ids: `[batch, token]` int64.
            attention_mask: `[batch, token]`, 1 for real tokens; encoders need it when padded,
                right-padded causal models do not.

        Returns:
            `(site, layer)` to `[batch, token, unit]` in the model's own dtype and device. They are
            the model's tensors, neither copied nor cast: do not change them in place. The
            recording keeps none of them.

        Raises:
            ValueError: If the model is in training mode (dropout would act).
            RuntimeError: If the forward ended before everything was recorded.
        """
        return self.run_keeping(None, input_ids, attention_mask)

    @torch.no_grad()
    def run_keeping(
        self, keep: Keep | None, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[Key, Any]:
        """As `run`, but keep of each tensor, at the moment when it is there, what `keep` returns.

        What is pooled on the spot need not wait, whole, for the last layer.
        """
        if self._model.training:
            raise ValueError("the model is in training mode; call model.eval() first")
        self._shape, self._recorded, self._keep = input_ids.shape, {}, keep
        try:
            with suppress(_AllRecorded):
                self._model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            missing = sorted(self._keys - self._recorded.keys())
            if missing:
                raise RuntimeError(f"the forward ended without passing {missing}")
            return self._recorded
        finally:
            self._shape, self._recorded, self._keep = None, {}, None

    def _record(self, key: Key, tensor: Tensor) -> None:
        """Keep a reference; stop the forward with the last one. Outside `run`: do nothing."""
        if self._shape is None:
            return
        # OPT flattens batch and token around its MLP.
        tensor = tensor.view(*self._shape, -1) if tensor.dim() == 2 else tensor
        self._recorded[key] = tensor if self._keep is None else self._keep(key, tensor)
        if len(self._recorded) == len(self._keys):
            raise _AllRecorded


@contextmanager
def recording(
    model: PreTrainedModel, layers: Sequence[int], sites: Sequence[Site]
) -> Iterator[Recording]:
    """Record every one of `sites` at every one of `layers` inside the block.

        with recording(model, [0, 2], ["mlp_act"]) as recorded:
            acts = recorded.run(input_ids)["mlp_act", 2]

    The hooks act only inside `run` and are gone when the block ends, however it ends.

    Args:
        model: A base model (`AutoModel`, not the causal one) in eval mode.
        layers: Layers from 0, in any order; a repeated one counts once.
        sites: Sites to record at each of them.

    Yields:
        The recording, whose `run` does one forward.

    Raises:
        UserError: If the architecture table has no entry for the model's type.
        ValueError: If nothing is asked for, a layer does not exist, or the model carries a head.
    """
    blocks = blocks_of(model)
    keys: frozenset[Key] = frozenset((site, layer) for site in sites for layer in layers)
    if not keys:
        raise ValueError("nothing to record: layers or sites are empty")
    absent = sorted({layer for layer in layers if not 0 <= layer < len(blocks)})
    if absent:
        raise ValueError(f"layers {absent} do not exist; the model has 0 to {len(blocks) - 1}")
    architecture = architecture_of(model.config.model_type)
    recorded = Recording(model, keys)
    with ExitStack() as hooks:
        for key in keys:
            handle = _hook(blocks[key[1]], architecture, key, recorded._record)
            hooks.callback(handle.remove)
        yield recorded


def _hook(
    block: nn.Module,
    architecture: Architecture,
    key: Key,
    record: Callable[[Key, Tensor], None],
) -> RemovableHandle:
    """Call `record(key, tensor)` whenever the block's module for the site runs."""
    path, end = architecture.tap(key[0])
    module = block.get_submodule(path)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        record(key, args[0] if args else kwargs["hidden_states"])

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Any, ...]) -> None:
        record(key, output[0] if isinstance(output, tuple) else output)

    if end == "input":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)

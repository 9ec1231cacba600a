"""Replace a site of a model while it runs; and run a model again from a block on.

Sites and layer numbering: `sdlms.models.architectures`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sdlms.models.architectures import Site, architecture_for, blocks_of, check_causal

Replace = Callable[[Tensor], Tensor]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@contextmanager
def replacing(model: PreTrainedModel, layer: int, site: Site, replace: Replace) -> Iterator[None]:
    """Put what `replace` returns in the place of a site, in every forward inside the block.

        with replacing(model, 3, "mlp_out", torch.zeros_like):
            logits = model(input_ids).logits

    `replace` is given the model's own tensor `[batch, token, unit]` and must not change it in
    place; what it returns is cast to the model's dtype. Contexts may be nested: of two on one site
    the outer one is applied first. The hooks are gone when the block ends, however it ends.

    Args:
        model: A base model or one with a head.
        layer: From 0.
        site: What is replaced there.
        replace: Gives a tensor of the shape that it takes.

    Raises:
        UserError: If the architecture table does not describe the model.
        ValueError: If the layer does not exist; in a forward, if `replace` returns another shape.
    """
    block = _blocks_from(model, layer)[0]
    tap = architecture_for(model.config).tap(site)
    replacer = _Replacer(replace)
    with ExitStack() as hooks:
        # Before the site's own hook, which may sit on the same module.
        handle = block.register_forward_pre_hook(replacer.see_shape, with_kwargs=True)
        hooks.callback(handle.remove)
        module = block.get_submodule(tap.path)
        if tap.end == "input":
            handle = module.register_forward_pre_hook(replacer.replace_input, with_kwargs=True)
        else:
            handle = module.register_forward_hook(replacer.replace_output)
        hooks.callback(handle.remove)
        yield


class _Replacer:
    """The hooks of one `replacing` context."""

    def __init__(self, replace: Replace) -> None:
        self._replace = replace
        self._shape = torch.Size()

    def see_shape(self, block: nn.Module, *arguments: Any) -> None:
        """Batch and token: some modules inside the block know them no more (OPT)."""
        self._shape = first_argument(arguments).shape[:2]

    def replace_input(self, module: nn.Module, *arguments: Any) -> Arguments:
        """A forward pre-hook."""
        return with_first(arguments, self._replaced(first_argument(arguments)))

    def replace_output(
        self, module: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Any, ...]
    ) -> Tensor | tuple[Any, ...]:
        """A forward hook."""
        if isinstance(output, tuple):
            return self._replaced(output[0]), *output[1:]
        return self._replaced(output)

    def _replaced(self, tensor: Tensor) -> Tensor:
        """The replacement in the shape and dtype that the model goes on with."""
        acts = tensor.reshape(*self._shape, -1)
        found = self._replace(acts)
        if found.shape != acts.shape:
            raise ValueError(f"a site {list(acts.shape)} was replaced by {list(found.shape)}")
        return found.to(tensor.dtype).reshape(tensor.shape)


@dataclass(frozen=True)
class Rerun:
    """A forward whose part from one block on can be run again, at the cost of that part.

    Attributes:
        resid: `[batch, token, d_model]`, the residual after the last block in the first forward.
        blocks: from that block to the last.
        arguments: what each of them was called with; only of the first with its hidden states.
    """

    resid: Tensor
    blocks: list[nn.Module]
    arguments: list[Arguments]

    @torch.no_grad()
    def again(self) -> Tensor:
        """The residual after the last block, as open `replacing` contexts have it now."""
        resid = first_argument(self.arguments[0])
        for block, arguments in zip(self.blocks, self.arguments, strict=True):
            args, kwargs = with_first(arguments, resid)
            resid = _first(block(*args, **kwargs))
        return resid


@torch.no_grad()
def run_once(model: PreTrainedModel, layer: int, input_ids: Tensor) -> Rerun:
    """Run a causal model over a batch, and keep what running it again from a block on takes.

    Each block keeps its own arguments, for they differ (sliding windows, rotary bases). In the
    families of the table nothing happens between blocks, so that `again` is bit-equal to a forward.

    Args:
        model: A causal model or its base model, in evaluation mode.
        layer: The first block that can be run again.
        input_ids: `[batch, token]` int64; right-padded where documents differ in length.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If the layer does not exist, or the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    check_causal(model.config)
    blocks = list(_blocks_from(model, layer))
    arguments: list[Arguments] = []
    last: list[Tensor] = []

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.append(with_first((args, kwargs), None) if arguments else (args, kwargs))

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
        after = blocks[-1].register_forward_hook(lambda *call: last.append(_first(call[-1])))
        hooks.callback(after.remove)
        model.base_model(input_ids=input_ids, use_cache=False)
    return Rerun(last[0], blocks, arguments)


def first_argument(arguments: Arguments) -> Tensor:
    """The hidden states that a module is called with."""
    args, kwargs = arguments
    tensor: Tensor = args[0] if args else kwargs["hidden_states"]
    return tensor


def with_first(arguments: Arguments, tensor: Tensor | None) -> Arguments:
    """The same call with other hidden states."""
    args, kwargs = arguments
    if args:
        return (tensor, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": tensor}


def _first(output: Tensor | tuple[Any, ...]) -> Tensor:
    """What a block returns, or the first of it."""
    return output[0] if isinstance(output, tuple) else output


def _blocks_from(model: PreTrainedModel, layer: int) -> nn.ModuleList:
    """The blocks from one on, of a model with or without a head."""
    blocks = blocks_of(cast("PreTrainedModel", model.base_model))
    if not 0 <= layer < len(blocks):
        raise ValueError(f"layer {layer} does not exist; the model has 0 to {len(blocks) - 1}")
    return blocks[layer:]

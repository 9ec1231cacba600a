"""The MLPs of a model alone: one token through all of them in turn, against the clock.

In turn, because the weights of a large model have left the processor's cache before their layer is
called again, as in decoding; one layer called many times would find them there.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sdlms.dynamic.decoding import Clock, Text, decode
from sdlms.models.architectures import Architecture, architecture_for, blocks_of
from sdlms.models.replacing import first_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Mlp(NamedTuple):
    """One layer's MLP with what a decoded token brings it.

    Attributes:
        run: from the MLP's input to the output of its down projection; it calls whatever modules
            stand in the block at the time.
        hidden: `[..., d_model]`, the input of one token.
    """

    run: Callable[[Tensor], Tensor]
    hidden: Tensor


def mlps_of(model: "PreTrainedModel", text: Text) -> list[Mlp]:
    """The MLPs in order, with their inputs at the last decoded token.

    Args:
        model: a causal model in evaluation mode, its own modules in place.
        text: with at least one decoded token.

    Raises:
        UserError: if the architecture table does not describe the model.
    """
    architecture = architecture_for(model.config)
    blocks = list(blocks_of(cast("PreTrainedModel", model.base_model)))
    first = architecture.mlp or architecture.up[0]
    seen: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        for layer, block in enumerate(blocks):
            module = block.get_submodule(first)
            handle = module.register_forward_pre_hook(_keep(seen, layer), with_kwargs=True)
            hooks.callback(handle.remove)
        for _ in decode(model, text):
            pass
    return [Mlp(_run(blocks[layer], architecture), seen[layer]) for layer in range(len(blocks))]


@torch.no_grad()
def time_mlps(mlps: list[Mlp], clock: Clock) -> float:
    """Seconds that one token takes in all MLPs."""
    started = clock.seconds()
    for mlp in mlps:
        mlp.run(mlp.hidden)
    return clock.seconds() - started


def _keep(seen: dict[int, Tensor], layer: int) -> Callable[..., None]:
    """A hook that keeps the last input of a layer's MLP."""

    def keep(module: nn.Module, *arguments: Any) -> None:
        seen[layer] = first_argument(arguments).clone()

    return keep


def _run(block: nn.Module, architecture: Architecture) -> Callable[[Tensor], Tensor]:
    """What an MLP does: a module, or where none is that (OPT), two linear maps and a function."""
    if architecture.mlp is not None:
        return block.get_submodule(architecture.mlp)
    (up,), down = architecture.up, architecture.down_projection

    def run(hidden: Tensor) -> Tensor:
        neurons = cast("nn.Module", block.activation_fn)(getattr(block, up)(hidden))
        output: Tensor = getattr(block, down)(neurons)
        return output

    return run

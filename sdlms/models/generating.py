"""Decode token by token with a KV cache, and keep the residual stream of every token.

State 0 is the embedding, which is what block 0 receives; state n + 1 is what block n returns.
Forward hooks take them from the forward that generates.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sdlms.models.architectures import blocks_of, check_causal, n_units
from sdlms.models.spreading import input_device

PIECE_TOKENS = 512


class Step(NamedTuple):
    """What one extension gave.

    Attributes:
        logits: `[d_vocab]` float32, after the last token.
        states: `[token, state, d_model]`, the model's dtype, of the tokens of this extension.
    """

    logits: Tensor
    states: Tensor


class Decoder:
    """One text in one causal model, and its KV cache.

        decoder = Decoder(model)
        step = decoder.extend(prompt)
        step = decoder.extend([sample(step.logits, sampling, generator)])

    Attributes:
        ids: the tokens that the KV cache holds; read only.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """A decoder that holds no text.

        Args:
            model: a causal model in eval mode; it is not changed.

        Raises:
            UserError: the model is an encoder, or the architecture table does not describe it.
            ValueError: the model is in training mode (dropout would act).
        """
        check_causal(model.config)
        if model.training:
            raise ValueError("the model is in training mode; call model.eval() first")
        self._model = model
        self._blocks = blocks_of(cast("PreTrainedModel", model.base_model))
        self._d_model = n_units(model.config, "resid_post")
        self._cache: Any = None  # the model's own class
        self.ids: list[int] = []

    @property
    def n_tokens(self) -> int:
        """The number of tokens that the KV cache holds."""
        return len(self.ids)

    def reset(self) -> None:
        """Forget the text and its KV cache."""
        self._cache, self.ids = None, []

    def missing(self, prompt: Sequence[int]) -> list[int]:
        """What of a prompt has still to be read; what is held stays only if it is its beginning.

        Args:
            prompt: at least one id.

        Returns:
            At least one id; `extend` it to have the logits after the prompt.
        """
        n_held = self.n_tokens
        if n_held >= len(prompt) or self.ids != list(prompt[:n_held]):
            self.reset()
        return list(prompt[self.n_tokens :])

    @torch.no_grad()
    def extend(self, ids: Sequence[int]) -> Step:
        """Read more tokens, in one forward.

        Where it raises, the decoder holds nothing any more, and no hook remains.

        Args:
            ids: at least one; together with those held at most the model's context. Cut a long
                text into pieces of `PIECE_TOKENS`, for each of which memory is taken.

        Returns:
            The logits after the last one, and the states of all of them.

        Raises:
            ValueError: there are no ids.
        """
        if not ids:
            raise ValueError("nothing to extend: there are no ids")
        shape = (len(ids), len(self._blocks) + 1, self._d_model)
        states = torch.empty(shape, dtype=self._model.dtype, device=input_device(self._model))
        cache, held = self._cache, self.ids
        self.reset()  # a forward that fails leaves the cache half written
        with _kept(self._blocks, states):
            output = forward_piece(self._model, ids, cache)
        held.extend(ids)
        self._cache, self.ids = output.past_key_values, held
        return Step(output.logits[0, -1].float(), states)


def forward_piece(
    model: PreTrainedModel,
    piece: Sequence[int],
    cache: Any,
    *,
    output_attentions: bool | None = None,
) -> Any:
    """One forward of the tokens that follow what a KV cache holds.

    Args:
        model: a causal model.
        piece: ids.
        cache: the `past_key_values` of the piece before; None at the start of a text.
        output_attentions: whether the output has attention weights; None as the config says.

    Returns:
        The model's own output: `past_key_values`, and the `logits` of the last token only.
    """
    device = input_device(model)
    return model(
        input_ids=torch.tensor([piece], device=device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        output_attentions=output_attentions,
    )


@contextmanager
def _kept(blocks: nn.ModuleList, states: Tensor) -> Iterator[None]:
    """Inside the block, a forward writes what enters block 0 and leaves every block to `states`."""
    with ExitStack() as hooks:
        before = _entering(states[:, 0])
        handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
        hooks.callback(handle.remove)
        for layer, block in enumerate(blocks):
            handle = block.register_forward_hook(_leaving(states[:, layer + 1]))
            hooks.callback(handle.remove)
        yield


def _entering(place: Tensor) -> Any:
    """A hook that copies a block's input, `[1, token, d_model]`."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        place.copy_((args[0] if args else kwargs["hidden_states"])[0])

    return before


def _leaving(place: Tensor) -> Any:
    """A hook that copies a block's output, `[1, token, d_model]` or a tuple that begins with it."""

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor | tuple[Any, ...]) -> None:
        place.copy_((output[0] if isinstance(output, tuple) else output)[0])

    return after

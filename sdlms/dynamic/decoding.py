"""Read a prompt, then decode a given text after it token by token, against the clock."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Text(NamedTuple):
    """What is read and decoded: the same tokens whatever a model would have said.

    Attributes:
        prompt: `[1, token]` int64, read at once.
        decoded: `[token]` int64, read one by one.
    """

    prompt: Tensor
    decoded: Tensor


class TextSeconds(NamedTuple):
    """Seconds of one text.

    Attributes:
        prefill: of the prompt.
        tokens: of each decoded token.
    """

    prefill: float
    tokens: list[float]


class Clock:
    """Reads the time when the device has done all that it was given."""

    def __init__(self, device: torch.device) -> None:
        """A clock for what runs on `device`."""
        self._device = device

    def seconds(self) -> float:
        """Seconds since some moment."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@torch.no_grad()
def decode(model: "PreTrainedModel", text: Text) -> Iterator[Tensor]:
    """Logits `[1, vocabulary]` after the prompt, then after each decoded token.

    The model makes the key-value cache that it wants (sliding windows, ...); it is gone with the
    iterator, so that every text starts anew.

    Args:
        model: a causal model in evaluation mode.
        text: on the model's device.
    """
    output = model(input_ids=text.prompt, use_cache=True, logits_to_keep=1)
    yield output.logits[:, -1]
    for token_id in text.decoded:
        cache = output.past_key_values
        output = model(input_ids=token_id.view(1, 1), past_key_values=cache, use_cache=True)
        yield output.logits[:, -1]


def time_text(
    model: "PreTrainedModel", text: Text, after_prompt: Callable[[], None] = lambda: None
) -> TextSeconds:
    """Decode a text and take the time of each step.

    Args:
        model: a causal model in evaluation mode.
        text: on the model's device.
        after_prompt: called between prompt and first decoded token, off the clock.
    """
    clock, seconds = Clock(model.device), list[float]()
    started = clock.seconds()
    for number, _ in enumerate(decode(model, text)):
        seconds.append(clock.seconds() - started)
        if number == 0:
            after_prompt()
        started = clock.seconds()
    return TextSeconds(seconds[0], seconds[1:])

"""The key-value caches of the last conversations, so that a turn need not read all anew."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from sdlms.models.architectures import n_layers, text_config
from sdlms.models.generating import Decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes that keys and values of one token take in all layers."""
    config = text_config(model.config)
    n_heads = config.num_attention_heads
    n_kept = getattr(config, "num_key_value_heads", None) or n_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return int(2 * n_layers(model.config) * n_kept * d_head * model.dtype.itemsize)


class Decoders:
    """Decoders by conversation, at most so many bytes; the least recently used go first."""

    def __init__(self, model: PreTrainedModel, limit_bytes: int) -> None:
        """Hold at most `limit_bytes`, those in use aside."""
        self._model = model
        self._limit_tokens = limit_bytes // bytes_per_token(model)
        self._kept: OrderedDict[str, Decoder] = OrderedDict()
        self._lock = Lock()

    def take(self, conversation_id: str) -> Decoder:
        """The conversation's decoder, or one that has read nothing; give it back later."""
        with self._lock:
            return self._kept.pop(conversation_id, None) or Decoder(self._model)

    def give_back(self, conversation_id: str, decoder: Decoder) -> None:
        """Keep it for the next turn, as long as there is room."""
        with self._lock:
            self._kept[conversation_id] = decoder
            n_tokens = sum(kept.n_tokens for kept in self._kept.values())
            while n_tokens > self._limit_tokens:
                n_tokens -= self._kept.popitem(last=False)[1].n_tokens

    def forget(self, conversation_id: str) -> None:
        """Let go of a conversation's."""
        with self._lock:
            self._kept.pop(conversation_id, None)

"""What one explorer takes and does at most; light, so that requests are described from it."""

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExplorerSettings:
    """Limits of an explorer.

    Attributes:
        top_k: predictions per token and state; at most the vocabulary.
        context_size: tokens before a clicked one that are shown with it.
        max_context_size: the most that a client may ask for.
        max_pins: tokens whose probability and rank one question may name.
        max_text_chars: of one message, and of a text to be cut into tokens.
        max_messages: of a conversation.
        max_tokens: of a conversation, template and replies included.
        max_new_tokens: of one reply.
        max_conversations: that are stored; more are refused until one is deleted.
        n_generations: that run or wait at once.
        max_matches: of one search.
        max_attention_weights: of one answer, over its layers, heads and keys.
        fill_rows: states times tokens that the background worker measures at a time; a click that
            the model is needed for waits for one such batch at most.
        pending_bytes: float32 hidden states that wait in memory for their lens rows.
        decoder_bytes: key-value caches that are kept between turns.
        unembed: how states are multiplied with the vocabulary, see `unembed_dtype_of`.
    """

    top_k: int = 10
    context_size: int = 15
    max_context_size: int = 64
    max_pins: int = 16
    max_text_chars: int = 100_000
    max_messages: int = 1_000
    max_tokens: int = 65_536
    max_new_tokens: int = 4_096
    max_conversations: int = 10_000
    n_generations: int = 4
    max_matches: int = 1_000
    max_attention_weights: int = 400_000
    fill_rows: int = 256
    pending_bytes: int = 128 << 20
    decoder_bytes: int = 256 << 20
    unembed: Literal["auto", "float32", "bfloat16"] = "auto"

    def limits(self) -> dict[str, int]:
        """The numbers among them, by name."""
        return {name: value for name, value in asdict(self).items() if name != "unembed"}

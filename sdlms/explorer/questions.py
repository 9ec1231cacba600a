"""What a client asks of the explorer, once its JSON has become types; no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

ExportFormat = Literal["json", "csv", "html"]
ROLES = ("system", "user", "assistant")
EMBEDDING = -1
LONGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class SamplingRequest:
    """How a reply is drawn.

    Attributes:
        max_new_tokens: of the reply.
        temperature: 0 takes the likeliest token.
        top_p: the smallest set of tokens that holds this probability is drawn from.
        seed: of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message that a client opens a conversation with."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """The user's next message.

    Attributes:
        text: of the message.
        messages: those before it; they open the conversation where no id is given.
        conversation_id: of the conversation that goes on; None opens one.
        cache_activations: whether this turn's states are kept for the lens.
        sampling: how the reply is drawn.
    """

    text: str
    messages: Sequence[Message] = ()
    conversation_id: str | None = None
    cache_activations: bool = True
    sampling: SamplingRequest = field(default_factory=SamplingRequest)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A click on a token.

    Attributes:
        include_context: whether the tokens before it are shown too.
        context_size: how many of them; None is the explorer's own.
        layers: post-block layers that are shown, -1 the embedding; None shows all.
        lens: `logit` or `tuned`.
        pins: token ids whose probability and rank are asked for.
    """

    include_context: bool = True
    context_size: int | None = None
    layers: Sequence[int] | None = None
    lens: str = "logit"
    pins: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class SearchQuestion:
    """Where a token is predicted.

    Attributes:
        text: of the token; or
        token_id: its id.
        layer: the only post-block layer that is searched, -1 the embedding; None searches all.
        least: the smallest probability that counts.
        lens: `logit` or `tuned`.
        limit: of the matches.
    """

    text: str | None = None
    token_id: int | None = None
    layer: int | None = None
    least: float = 0.1
    lens: str = "logit"
    limit: int = 200

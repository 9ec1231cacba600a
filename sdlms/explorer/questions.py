"""What a client asks of the explorer, once its JSON has become types."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from sdlms.explorer.settings import ExplorerSettings
from sdlms.models.chat import Message
from sdlms.models.sampling import Sampling

ExportFormat = Literal["json", "csv", "html"]
EMBEDDING = -1


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
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A click on a token.

    Attributes:
        include_context: whether the tokens before it are shown too.
        context_size: how many of them.
        layers: post-block layers that are shown, -1 the embedding; None shows all.
        lens: `logit` or `tuned`.
        pins: token ids whose probability and rank are asked for.
    """

    include_context: bool = True
    context_size: int = ExplorerSettings.context_size
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

"""The API's answers, as OpenAPI describes them.

They are not applied to what the explorer says, which would cost time and hide what is missing
here; tests compare the two.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Finish = Literal["stop", "length", "cancelled"]


class Reply(BaseModel):
    """An answer: its fields and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Failure(Reply):
    """What went wrong, in one line."""

    detail: str


class Health(Reply):
    """The server answers."""

    status: Literal["ok"]
    model: str


class StateReply(Reply):
    """A place of the residual stream; `layer` is -1 for the embedding."""

    index: Count
    site: Literal["resid_pre", "resid_mid", "resid_post"]
    layer: int
    name: str


class ModelInfo(Reply):
    """The model, its states and what this explorer takes."""

    model_name: str
    revision: str | None
    num_layers: Count
    vocab_size: Count
    d_model: Count
    n_heads: Count
    context: Count
    device: str
    dtype: str
    template: Literal["model", "plain"]
    lenses: list[Literal["logit", "tuned"]]
    states: list[StateReply]
    top_k: Count
    store_hidden: Literal["none", "fp16", "int8"]
    sdlms_version: str
    limits: dict[str, int]


class TokenReply(Reply):
    """A token of a conversation; `pieces` are its bytes where it is part of a character only."""

    id: Count
    text: str
    position: Count
    role: Literal["system", "user", "assistant", "template"]
    message_index: int | None
    message_start: bool
    is_template: bool
    in_prompt: bool
    pieces: str


class Summary(Reply):
    """A conversation in the list."""

    conversation_id: str
    title: str
    created: Any
    updated: Any
    n_tokens: Count
    n_messages: Count
    persisted: bool
    size_bytes: Count


class MessageReply(Reply):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    index: Count


class ConversationReply(Reply):
    """A conversation with all its tokens."""

    conversation_id: str
    title: str
    persisted: bool
    messages: list[MessageReply]
    tokens: list[TokenReply]


class ChatReply(Reply):
    """A reply, and the tokens that this turn added; `left`: tokens that left the prompt."""

    conversation_id: str
    text: str
    tokens: list[TokenReply]
    userTokens: list[TokenReply]
    finish: Finish
    left: Count
    seconds: Annotated[float, Field(ge=0)]


class ShortReply(Reply):
    """A reply's text."""

    conversation_id: str
    text: str


class Prediction(Reply):
    """One of the likeliest next tokens."""

    token_id: Count
    text: str
    probability: Fraction | None
    percent: Annotated[float, Field(ge=0, le=100)] | None
    rank: Annotated[int, Field(ge=1)]


class NextToken(Reply):
    """What really came next; rank 0 where the model's numbers are none."""

    token_id: Count
    text: str
    probability: Fraction | None
    rank: Count


class Pin(Reply):
    """A token that is followed."""

    token_id: Count
    probability: Fraction | None
    rank: Count


class Cell(Reply):
    """What a state at a position predicts, null where the model's numbers are none.

    `kl_nats` is to the final state's prediction.
    """

    top: list[Prediction]
    entropy_nats: float | None
    kl_nats: float | None
    next: NextToken | None
    pins: list[Pin]


class StateCells(StateReply):
    """A state at all positions that were asked for."""

    cells: list[Cell]


class PanelHeader(Reply):
    """A clicked position and its context; the clicked one is last."""

    conversation_id: str
    position: Count
    lens: Literal["logit", "tuned"]
    positions: list[Count]
    tokens: list[TokenReply]
    n_states: Count
    decided_at: list[int]
    source: Literal["memory", "disk", "computed"]
    recomputed: bool


class Panel(PanelHeader):
    """The header and the states, the final one first."""

    states: list[StateCells]


class LayerAttention(Reply):
    """One layer's heads, each with a weight per key."""

    layer: Count
    heads: list[list[Fraction]]


class Attention(Reply):
    """Where a token looked; `positions` are those of the keys."""

    position: Count
    positions: list[Count]
    layers: list[LayerAttention]


class Match(Reply):
    """A position and state that predict the token."""

    position: Count
    state: Count
    layer: int
    name: str
    rank: Annotated[int, Field(ge=1)]
    probability: Fraction


class Matches(Reply):
    """Where a token is predicted.

    `n_unfilled`: positions that are not measured yet; `n_uncertain`: positions where it may be as
    probable as asked, but is not among the `top_k` that are stored.
    """

    token_id: Count
    text: str
    n_unfilled: Count
    n_uncertain: Count
    matches: list[Match]


class NamedToken(Reply):
    """A token of the vocabulary."""

    token_id: Count
    text: str


class NamedTokens(Reply):
    """Tokens of a text."""

    tokens: list[NamedToken]


class Overview(Reply):
    """The whole conversation in a line; null where it is not measured yet."""

    positions: list[Count]
    decided_at: list[int | None]
    final_probability: list[Fraction | None]
    n_unfilled: Count


class CacheStatus(Reply):
    """What the cache holds."""

    memory_used_mb: float
    memory_limit_mb: float
    disk_conversations: Count
    disk_used_mb: float
    disk_limit_mb: float
    memory_only: bool
    unfilled_tokens: Count
    warnings: list[str]

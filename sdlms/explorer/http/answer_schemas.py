"""The API's answers, as OpenAPI describes them.

They are not applied to what the explorer says, which would cost time and hide what is missing
here; tests compare the two.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sdlms.explorer.reply import Finish
from sdlms.lens.kinds import LensName

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Answer(BaseModel):
    """An answer: its fields and nothing else."""

    model_config = ConfigDict(extra="forbid")


class Failure(Answer):
    """What went wrong, in one line."""

    detail: str


class Health(Answer):
    """The server answers."""

    status: Literal["ok"]
    model: str


class StateInfo(Answer):
    """A place of the residual stream; `layer` is -1 for the embedding."""

    index: Count
    site: Literal["resid_pre", "resid_post"]
    layer: int
    name: str


class ModelInfo(Answer):
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
    lenses: list[LensName]
    states: list[StateInfo]
    top_k: Count
    store_hidden: Literal["none", "fp16", "int8"]
    sdlms_version: str
    limits: dict[str, int]


class TokenInfo(Answer):
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


class Summary(Answer):
    """A conversation in the list."""

    conversation_id: str
    title: str
    created: Any
    updated: Any
    n_tokens: Count
    n_messages: Count
    persisted: bool
    size_bytes: Count


class MessageInfo(Answer):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    index: Count


class ConversationInfo(Answer):
    """A conversation with all its tokens."""

    conversation_id: str
    title: str
    persisted: bool
    messages: list[MessageInfo]
    tokens: list[TokenInfo]


class ChatReply(Answer):
    """A reply, and the tokens that this turn added.

    `left`: tokens that left the prompt. `stored`: it is on the disk by now; else only in memory, as
    the cache's status says why.
    """

    conversation_id: str
    text: str
    tokens: list[TokenInfo]
    userTokens: list[TokenInfo]
    finish: Finish
    left: Count
    seconds: Annotated[float, Field(ge=0)]
    stored: bool


class ShortReply(Answer):
    """A reply's text."""

    conversation_id: str
    text: str


class Prediction(Answer):
    """One of the likeliest next tokens."""

    token_id: Count
    text: str
    probability: Fraction | None
    percent: Annotated[float, Field(ge=0, le=100)] | None
    rank: Annotated[int, Field(ge=1)]


class NextToken(Answer):
    """What really came next; rank 0 where the model's numbers are none."""

    token_id: Count
    text: str
    probability: Fraction | None
    rank: Count


class Pin(Answer):
    """A token that is followed."""

    token_id: Count
    probability: Fraction | None
    rank: Count


class Cell(Answer):
    """What a state at a position predicts, null where the model's numbers are none.

    `kl_nats` is to the final state's prediction.
    """

    top: list[Prediction]
    entropy_nats: float | None
    kl_nats: float | None
    next: NextToken | None
    pins: list[Pin]


class StateCells(StateInfo):
    """A state at all positions that were asked for."""

    cells: list[Cell]


class PanelHeader(Answer):
    """A clicked position and its context; the clicked one is last."""

    conversation_id: str
    position: Count
    lens: LensName
    positions: list[Count]
    tokens: list[TokenInfo]
    n_states: Count
    decided_at: list[int]
    source: Literal["memory", "disk", "computed"]
    recomputed: bool


class Panel(PanelHeader):
    """The header and the states, the final one first."""

    states: list[StateCells]


class LayerAttention(Answer):
    """One layer's heads, each with a weight per key."""

    layer: Count
    heads: list[list[Fraction]]


class Attention(Answer):
    """Where a token looked; `positions` are those of the keys.

    `n_left_out`: earlier keys that were too many to be sent; `left_out_layers`: layers that were.
    """

    position: Count
    positions: list[Count]
    n_left_out: Count
    layers: list[LayerAttention]
    left_out_layers: list[Count]


class Match(Answer):
    """A position and state that predict the token."""

    position: Count
    state: Count
    layer: int
    name: str
    rank: Annotated[int, Field(ge=1)]
    probability: Fraction


class Matches(Answer):
    """Where a token is predicted.

    `n_unfilled`: positions that are not measured yet; `n_uncertain`: positions where it may be as
    probable as asked, but is not among the `top_k` that are stored.
    """

    token_id: Count
    text: str
    n_unfilled: Count
    n_uncertain: Count
    matches: list[Match]


class NamedToken(Answer):
    """A token of the vocabulary."""

    token_id: Count
    text: str


class NamedTokens(Answer):
    """Tokens of a text."""

    tokens: list[NamedToken]


class Overview(Answer):
    """The whole conversation in a line; null where it is not measured yet."""

    positions: list[Count]
    decided_at: list[int | None]
    final_probability: list[Fraction | None]
    n_unfilled: Count


class CacheStatus(Answer):
    """What the cache holds."""

    memory_used_mb: float
    memory_limit_mb: float
    disk_conversations: Count
    disk_used_mb: float
    disk_limit_mb: float
    memory_only: bool
    unfilled_tokens: Count
    warnings: list[str]

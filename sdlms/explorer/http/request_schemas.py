"""The API's requests, each field with its bounds; what fits them not is refused."""

from dataclasses import fields
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from sdlms.explorer.questions import (
    ChatRequest,
    ExportFormat,
    Question,
    SearchQuestion,
)
from sdlms.explorer.settings import ExplorerSettings
from sdlms.models.chat import Message, Role
from sdlms.models.sampling import HOTTEST, LONGEST_SEED, Sampling

MOST = ExplorerSettings()  # what no server exceeds; one with less refuses the rest itself
DRAWN = Sampling()  # how a reply is drawn where nothing else is said
MOST_TITLE = 200
MOST_IN_ADDRESS = 1_000  # characters of a text in a query, where servers bound what they read
LARGEST = 2**31 - 1  # token ids and positions, as they are stored
NUMBERS = r"^-?[0-9]{1,9}(,-?[0-9]{1,9}){0,511}$"  # comma-separated, as --layers is
CONVERSATION_ID = r"^[A-Za-z0-9_-]{1,64}$"

ConversationId = Annotated[str, Path(pattern=CONVERSATION_ID, description="A conversation's id.")]
Position = Annotated[int, Path(ge=0, le=LARGEST, description="A token's position, from 0.")]
Text = Annotated[str, Field(min_length=1, max_length=MOST.max_text_chars)]
LensName = Annotated[
    str, Field(max_length=20, description="One of the lenses that /api/model_info names.")
]
Layers = Annotated[
    str | None,
    Field(pattern=NUMBERS, description="Layers such as 0,1; -1 is the embedding. Else all."),
]
TokenId = Annotated[int, Field(ge=0, le=LARGEST)]


class Body(BaseModel):
    """A body: nothing but its fields, of exactly their types."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SamplingBody(Body):
    """How a reply is drawn, and how it is sent."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MOST.max_new_tokens)] = DRAWN.max_new_tokens
    temperature: Annotated[
        float, Field(ge=0, le=HOTTEST, description="0: the likeliest token.")
    ] = DRAWN.temperature
    top_p: Annotated[float, Field(gt=0, le=1)] = DRAWN.top_p
    seed: Annotated[int, Field(ge=0, le=LONGEST_SEED)] = DRAWN.seed
    stream: Annotated[bool, Field(description="Send one JSON object a line, as it comes.")] = False

    def sampling(self) -> Sampling:
        """How the reply is drawn."""
        return Sampling(**self.model_dump(include={each.name for each in fields(DRAWN)}))


class MessageBody(Body):
    """A message that opens a conversation."""

    role: Role
    content: Text


class ChatBody(SamplingBody):
    """The user's next message."""

    text: Text
    messages: Annotated[list[MessageBody], Field(max_length=MOST.max_messages)] = []
    cache_activations: Annotated[bool, Field(description="Keep what the lens needs.")] = True
    conversation_id: Annotated[
        str | None, Field(pattern=CONVERSATION_ID, description="Goes on with this conversation.")
    ] = None

    def request(self) -> ChatRequest:
        """The same as the explorer takes it."""
        return ChatRequest(
            text=self.text,
            messages=[Message(role=each.role, content=each.content) for each in self.messages],
            conversation_id=self.conversation_id,
            cache_activations=self.cache_activations,
            sampling=self.sampling(),
        )


class RegenerateBody(SamplingBody):
    """Another token at a position of a reply, from which a new conversation goes on."""

    position: TokenId
    token_id: TokenId


class Change(Body):
    """What a conversation is called, and whether its files are kept for good."""

    title: Annotated[str, Field(min_length=1, max_length=MOST_TITLE)] | None = None
    persisted: bool | None = None


class Parameters(BaseModel):
    """The part of an address behind the question mark: nothing but its fields."""

    model_config = ConfigDict(extra="forbid")


class ActivationsQuery(Parameters):
    """A click on a token."""

    include_context: Annotated[bool, Field(description="The positions before it too.")] = True
    context_size: Annotated[
        int, Field(ge=0, le=MOST.max_context_size, description="How many of them.")
    ] = MOST.context_size
    layers: Layers = None
    lens: LensName = "logit"
    pins: Annotated[
        str | None, Field(pattern=NUMBERS, description="Ids of tokens to follow: 12,55.")
    ] = None
    stream: Annotated[bool, Field(description="One JSON object a line, as it comes.")] = False

    def question(self) -> Question:
        """The same as the explorer takes it."""
        return Question(
            include_context=self.include_context,
            context_size=self.context_size,
            layers=numbers_of(self.layers),
            lens=self.lens,
            pins=numbers_of(self.pins) or (),
        )


class AttentionQuery(Parameters):
    """Which layers' attention is asked for."""

    layers: Layers = None


class LensQuery(Parameters):
    """Which lens is asked."""

    lens: LensName = "logit"


class NamedQuery(Parameters):
    """A token by its text or its id."""

    text: Annotated[
        str | None,
        Field(min_length=1, max_length=MOST_IN_ADDRESS, description="A text; blanks count."),
    ] = None
    token_id: Annotated[int | None, Field(ge=0, le=LARGEST, description="A token's id.")] = None


class SearchQuery(NamedQuery):
    """Where a token is predicted."""

    layer: Annotated[
        int | None, Field(ge=-1, le=LARGEST, description="The only one; -1 is the embedding.")
    ] = None
    least: Annotated[float, Field(ge=0, le=1, description="The smallest probability.")] = 0.1
    lens: LensName = "logit"
    limit: Annotated[int, Field(ge=1, le=MOST.max_matches, description="Of the matches.")] = 200

    def question(self) -> SearchQuestion:
        """The same as the explorer takes it."""
        return SearchQuestion(**self.model_dump())


class ExportQuery(Parameters):
    """What the file is like."""

    format: Annotated[ExportFormat, Field(description="HTML needs no other file.")] = "json"


def numbers_of(text: str | None) -> list[int] | None:
    """What comma-separated numbers say; None where nothing is said."""
    return None if text is None else [int(word) for word in text.split(",")]

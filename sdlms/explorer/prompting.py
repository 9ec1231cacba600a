"""From the parts of a chat to token ids, each with the part that it belongs to.

Only the template writes control tokens. Where a message spells one, the text is cut inside of it,
so that the tokenizer reads it as the characters that it is.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from sdlms.errors import UserError
from sdlms.models.architectures import text_config
from sdlms.models.chat import ChatTemplate, Part, end_ids
from sdlms.models.running_text import TokenSpan, running_spans, spans_alone
from sdlms.models.token_texts import vocabulary_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """One token of a prompt.

    Attributes:
        id: its id.
        text: the characters that end in it; one after another these are the prompt's text.
        pieces: its bytes in hex where they are only a part of a character, else "".
        part: the part that it belongs to; a token that spans template and message is the message's.
    """

    id: int
    text: str
    pieces: str
    part: Part


@dataclass(frozen=True)
class Prompting:
    """What a conversation must know of the model.

    Attributes:
        tokenizer: a fast one.
        template: of its chats.
        context: the most tokens that the model reads.
        end_ids: ids that end a reply.
        d_vocab: ids below this one are known to the model; None where all are.
    """

    tokenizer: "PreTrainedTokenizerBase"
    template: ChatTemplate
    context: int
    end_ids: frozenset[int]
    d_vocab: int | None = None

    def encode(self, parts: Sequence[Part], after: int | None = None) -> list[Encoded]:
        """The tokens of a chat's text, or of what follows a token.

        Args:
            parts: consecutive parts of the text.
            after: the id before them; None at the start of the text.

        Raises:
            UserError: a message spells a control token in a way that cannot be told apart, or the
                model does not know a token.
        """
        text = "".join(part.text for part in parts)
        ends = list(accumulate(len(part.text) for part in parts))
        spans = list(self._spans(text, parts, ends, after))
        owners = [_owner(span, parts, ends) for span in spans]
        self._check_control(text, spans, owners)
        self._check_known(text, spans)
        vocabulary = vocabulary_of(self.tokenizer)
        encoded = []
        for index, (span, owner) in enumerate(zip(spans, owners, strict=True)):
            own, whole = _own_text(text, spans, index)
            held = b"" if whole else vocabulary.bytes_of(span.id) or b""
            pieces = "" if held == own.encode() else held.hex(" ")
            encoded.append(Encoded(span.id, own, pieces, owner))
        return encoded

    def is_control(self, token_id: int) -> bool:
        """Whether only the template may write this token."""
        return token_id in self._control_ids

    def control_ids_in(self, text: str) -> frozenset[int]:
        """Ids of the control tokens that a text of the template spells."""
        return frozenset(i for i, content in self._control_ids.items() if content in text)

    @cached_property
    def _control_ids(self) -> dict[int, str]:
        added = self.tokenizer.added_tokens_decoder.items()
        known = self.template.control_tokens
        return {token_id: token.content for token_id, token in added if token.content in known}

    def _spans(
        self, text: str, parts: Sequence[Part], ends: Sequence[int], after: int | None
    ) -> Iterator[TokenSpan]:
        """The tokens of the text, whose spans leave out no character."""
        said = [
            (end - len(part.text), end)
            for part, end in zip(parts, ends, strict=True)
            if not part.is_template
        ]
        cuts = [0, *self._cuts(text, said), len(text)]
        before = "" if after is None else self._control_ids.get(after, "")
        covered = 0
        for begin, end in pairwise(cuts):
            piece = text[begin:end]
            if begin == 0 and after is None:
                read = spans_alone(self.tokenizer, piece)
            else:
                read = running_spans(self.tokenizer, piece, before if begin == 0 else "")
            for span in read:
                yield TokenSpan(span.id, min(covered, span.begin + begin), span.end + begin)
                covered = max(covered, span.end + begin)

    def _cuts(self, text: str, said: Sequence[tuple[int, int]]) -> Iterator[int]:
        """Where the text is cut so that no message holds a whole control token."""
        longest_first = sorted(self.template.control_tokens, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # never matches
        found = pattern.search(text)
        while found:
            begin, end = found.span()
            if any(begin < last and first < end for first, last in said):
                end = begin + 1
                yield end
            found = pattern.search(text, end)

    def _check_control(self, text: str, spans: Sequence[TokenSpan], owners: Sequence[Part]) -> None:
        """Make sure that no message has become a control token; unknown words stay unknown."""
        for span, owner in zip(spans, owners, strict=True):
            is_unknown = span.id == self.tokenizer.unk_token_id and (
                text[span.begin : span.end] != self.tokenizer.unk_token
            )
            if not owner.is_template and self.is_control(span.id) and not is_unknown:
                raise UserError(
                    f"message {owner.message_index} spells '{self._control_ids[span.id]}', which "
                    "the tokenizer reads as a control token. Leave it out."
                )

    def _check_known(self, text: str, spans: Sequence[TokenSpan]) -> None:
        """Make sure that the model has an embedding of every token."""
        for span in spans:
            if self.d_vocab is not None and span.id >= self.d_vocab:
                raise UserError(
                    f"the tokenizer gives token {span.id} for {_shown(text, span)}, but "
                    f"the model knows {self.d_vocab} tokens. Leave it out, or use the tokenizer "
                    "that belongs to the model."
                )


def prompting_of(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Prompting:
    """How chats with this model are written.

    Raises:
        UserError: the tokenizer cannot say which characters a token stands for.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, which cannot say which characters a "
            "token stands for. Use a model with a tokenizer.json."
        )
    context = int(text_config(model.config).max_position_embeddings)
    template, ends = ChatTemplate(tokenizer), end_ids(model, tokenizer)
    return Prompting(tokenizer, template, context, ends, int(text_config(model.config).vocab_size))


def _shown(text: str, span: TokenSpan) -> str:
    """What a token stands for, in quotes and not long."""
    return repr(text[span.begin : span.end][:40])


def _owner(span: TokenSpan, parts: Sequence[Part], ends: Sequence[int]) -> Part:
    """The first message that the token touches, or else the template's text where it begins."""
    first = min(bisect_right(ends, span.begin), len(parts) - 1)
    last = min(bisect_left(ends, span.end), len(parts) - 1)
    for part in parts[first : last + 1]:
        if not part.is_template and part.text:
            return part
    return parts[first]


def _own_text(text: str, spans: Sequence[TokenSpan], index: int) -> tuple[str, bool]:
    """The characters that end in a token, and whether they are all that it stands for."""
    span = spans[index]
    is_last = index + 1 == len(spans)
    following = len(text) if is_last else spans[index + 1].begin
    end = len(text) if is_last else min(span.end, following)
    own = text[span.begin : end]
    shares = (index > 0 and spans[index - 1].end > span.begin) or span.end > following
    return own, bool(own) and not shares

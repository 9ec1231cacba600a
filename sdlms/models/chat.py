"""The text of a chat as the model wants it, with what is the template's told from what was said.

A chat template is a program that a model brings along. It is run as transformers runs it, in a
sandbox, on stand-ins for what was said; what stands between them is the template's own text. The
messages then take their places, so the two can never be taken for one another.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from jinja2 import TemplateError

from sdlms.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
PLAIN = (
    "{% if adds_bos %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For models that bring no template."""
MARK, MARK_END = "\ue000", "\ue001"  # private use: no template trims, splits or writes them
# What a template can raise: `raise_exception`, and whatever goes wrong in an expression.
REFUSALS = (
    *(TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError),
    *(RecursionError, MemoryError),
)


class Message(NamedTuple):
    """Something that was said."""

    role: Role
    content: str


class Part(NamedTuple):
    """A stretch of a chat's text.

    Attributes:
        text: may be empty where it is a message's.
        message_index: the message that it is, or, of the template's text, the one that it
            introduces or ends; -1 before the first.
        is_template: whether the template wrote it.
    """

    text: str
    message_index: int
    is_template: bool


def message_of(role: str, content: str) -> Message:
    """A message, checked.

    Raises:
        UserError: the role is none of system, user, assistant, or the content is no text.
    """
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the message holds a lone surrogate at character {error.start}; send whole characters."
        ) from None
    for known in ROLES:
        if role == known:
            return Message(known, content)
    raise UserError(f"role '{role[:40]}' is unknown; it must be one of {', '.join(ROLES)}.")


def end_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids that end a reply: those of the tokenizer, the config and the generation config."""
    configs = (model.config.get_text_config(), getattr(model, "generation_config", None), tokenizer)
    found: set[int] = set()
    for config in configs:
        value = getattr(config, "eos_token_id", None)
        found.update(value if isinstance(value, list) else [value] if value is not None else [])
    return frozenset(found)


class ChatTemplate:
    """The tokenizer's chat template, or a plain one.

    Attributes:
        kind: "model" where the tokenizer brings one, else "plain".
        hash: sha256 of its source.
        control_tokens: strings that only the template may write: special tokens, and added tokens
            that stand in its source.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Read the tokenizer's default template."""
        self._tokenizer = tokenizer
        self.kind: Literal["model", "plain"] = "model"
        try:
            self._source: str = tokenizer.get_chat_template()
        except ValueError:  # there is none, or several and no default
            self.kind, self._source = "plain", PLAIN
        self.hash = hashlib.sha256(self._source.encode()).hexdigest()
        self.control_tokens = tuple(
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if len(token.content) > 1 and (token.special or token.content in self._source)
        )
        self._adds_bos = tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]

    def opening(self, messages: Sequence[Message]) -> list[Part]:
        """A whole chat, up to where the assistant's next reply begins.

        Args:
            messages: at least one; the last is the user's.

        Raises:
            UserError: the template refuses these messages, or leaves out or moves one.
        """
        pieces = self._pieces(messages)
        first, header = self._before(messages, pieces[0])
        parts = [Part(first, -1, True), Part(header, 0, True)]
        said = [""] * len(messages)
        for start in (0, 1):  # every second message, then the others
            said[start::2] = self._said(messages, range(start, len(messages), 2), pieces)
        tails: dict[tuple[Role, str], str] = {}
        for index, text in enumerate(said):
            behind = messages[index].role, pieces[index + 1]
            if behind not in tails:  # the first of its kind speaks for all: most chats have three
                tails[behind] = self._tail(messages[: index + 1])
            parts += [Part(text, index, False), *_behind(index, pieces, tails[behind])]
        if self._render(messages, generate=True) != "".join(part.text for part in parts):
            raise UserError(
                "the model's chat template writes another frame around these messages because of "
                f"what they say together ({_roles(messages)}). Say it in other words."
            )
        return _without_empty(parts)

    def following(self, messages: Sequence[Message]) -> list[Part]:
        """What stands behind the last reply, once the user has answered it.

        Args:
            messages: the chat, the last reply and the user's new message at its end.

        Returns:
            The template's end of the reply, the new message in its frame, the next reply's header.

        Raises:
            UserError: the template refuses these messages, or leaves out or moves one.
        """
        pieces = self._pieces(messages)
        new = len(messages) - 1
        said = self._said(messages, [new], pieces)[0]
        parts = [*_behind(new - 1, pieces, self._tail(messages[:new])), Part(said, new, False)]
        return _without_empty([*parts, *_behind(new, pieces, self._tail(messages))])

    def reply_end(self, messages: Sequence[Message]) -> str:
        """The template's text behind a reply to these messages; "" where it refuses one."""
        return self._tail([*messages, Message("assistant", "")])

    def _pieces(self, messages: Sequence[Message]) -> list[str]:
        """The template's text before, between and behind the messages, each said once, in order."""
        text = self._render(_stand_ins(messages, MARK), generate=True)
        if (pieces := _between(text, MARK, range(len(messages)))) is None:
            raise UserError(
                "the model's chat template leaves out, repeats or moves one of these messages "
                f"({_roles(messages)}). Leave out the system message, or use another model."
            )
        return pieces

    def _said(
        self, messages: Sequence[Message], indices: Sequence[int], pieces: Sequence[str]
    ) -> list[str]:
        """Messages as the template writes them: what their stand-ins' places then hold.

        Args:
            messages: the chat.
            indices: of the messages, rising; no two are neighbours, so that the stand-ins of the
                others tell where each one's frame begins and ends.
            pieces: the template's text around them.
        """
        mark = _mark(messages[index].content for index in indices)
        chat = _stand_ins(messages, mark)
        for index in indices:
            chat[index] = messages[index]
        others = sorted(set(range(len(messages))) - set(indices))
        found = _between(self._render(chat, generate=True), mark, others)
        said = []
        for n_before, index in enumerate(indices):
            text = "" if found is None else found[index - n_before]
            before, behind = pieces[index : index + 2]
            n_said = len(text) - len(before) - len(behind)
            framed = text.startswith(before) and text.endswith(behind)
            if found is None or n_said < 0 or not framed:
                raise UserError(
                    f"the model's chat template writes another frame around message {index} "
                    "because of what it says. Say it in other words."
                )
            said.append(text[len(before) : len(before) + n_said])
        return said

    def _before(self, messages: Sequence[Message], text: str) -> tuple[str, str]:
        """The template's text before the first message: its own, and the message's header.

        A user's header is known from where it stands behind a reply.
        """
        if messages[0].role != "user":
            return "", text
        chat = [Message("user", ""), Message("assistant", ""), Message("user", "")]
        try:
            between = self._pieces(chat)[2]
        except UserError:
            return "", text
        header = between[len(_shared(between, self._tail(chat[:2]))) :]
        n_before = len(text) - len(header) if header and text.endswith(header) else 0
        return text[:n_before], text[n_before:]

    def _tail(self, messages: Sequence[Message]) -> str:
        """The template's text behind the last message where nothing follows; "" if it refuses."""
        try:
            text = self._render(_stand_ins(messages, MARK), generate=False)
        except UserError:
            return ""
        return _stand_in_pattern(MARK).split(text)[-1]

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        """The chat's text, with the header of the next reply where `generate`.

        Raises:
            UserError: the template refuses the chat, or fails.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                [message._asdict() for message in messages],
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=generate,
                adds_bos=self._adds_bos,
            )
        except REFUSALS as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the model's chat template refuses these messages ({_roles(messages)}): {reason}"
            ) from None
        return cast("str", text)


def _roles(messages: Sequence[Message]) -> str:
    """Who speaks, in order; the last of them where there are many."""
    roles = [message.role for message in messages]
    return ", ".join(roles if len(roles) <= 4 else ["…", *roles[-4:]])


def _stand_ins(messages: Sequence[Message], mark: str) -> list[Message]:
    """The same roles, each saying its number between marks."""
    return [Message(role, f"{mark}{index}{MARK_END}") for index, (role, _) in enumerate(messages)]


def _mark(contents: Iterable[str]) -> str:
    """A mark that none of the texts holds: one longer than the longest they hold."""
    held = (run for content in contents for run in re.findall(f"{MARK}+", content))
    return MARK * (1 + max(map(len, held), default=0))


def _stand_in_pattern(mark: str) -> re.Pattern[str]:
    """Finds stand-ins, with the number as its group."""
    return re.compile(f"{mark}([0-9]+){MARK_END}")


def _between(text: str, mark: str, indices: Sequence[int]) -> list[str] | None:
    """The text before, between and behind stand-ins; None where they are not these, in order."""
    pieces = _stand_in_pattern(mark).split(text)
    return pieces[::2] if pieces[1::2] == [str(index) for index in indices] else None


def _behind(index: int, pieces: Sequence[str], tail: str) -> list[Part]:
    """The template's text behind a message: its end, and the next one's header.

    Args:
        index: of the message.
        pieces: the template's text around the messages.
        tail: what is behind the message where nothing follows.
    """
    text = pieces[index + 1]
    end = _shared(text, tail)
    return [Part(end, index, True), Part(text[len(end) :], index + 1, True)]


def _without_empty(parts: Sequence[Part]) -> list[Part]:
    """The parts that have a text, and every message."""
    return [part for part in parts if part.text or not part.is_template]


def _shared(first: str, second: str) -> str:
    """The longest text with which both begin."""
    pairs = zip(first, second, strict=False)
    return first[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))]

"""The explorer: chats with one model, and what its layers say; everything but HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import metadata
from threading import Event as Flag
from typing import Any

from sdlms.explorer.admission import check_characters, check_text
from sdlms.explorer.answers import activations
from sdlms.explorer.attending import attention
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.core import Core
from sdlms.explorer.events import Ahead, Pieces
from sdlms.explorer.exporting import export
from sdlms.explorer.filling import Filler
from sdlms.explorer.loaded import LoadedModel
from sdlms.explorer.questions import (
    ChatRequest,
    ExportFormat,
    Question,
    SearchQuestion,
)
from sdlms.explorer.rereading import NEVER
from sdlms.explorer.searching import overview, search
from sdlms.explorer.settings import ExplorerSettings
from sdlms.explorer.shapes import Event, Json, state_json
from sdlms.explorer.shelf import Shelf
from sdlms.explorer.turns import Turns
from sdlms.lens.tuned import Tuned
from sdlms.models.architectures import n_layers, text_config
from sdlms.models.sampling import Sampling


class Explorer:
    """One model's explorer; any number of threads may ask it at once.

    What is wrong with a request is raised as a `Refusal`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        cache: Cache,
        tuned: Tuned | None,
        settings: ExplorerSettings,
    ) -> None:
        """Begin with the conversations that the cache has; nothing is computed.

        Args:
            loaded: the model.
            cache: of conversations of this model; it is closed with the explorer.
            tuned: translators of the tuned lens, None where there is none.
            settings: what is taken at most.
        """
        self._core = core = Core(loaded, cache, tuned, settings)
        self._filler = Filler(core)
        self._shelf = Shelf(loaded, cache, _hash_of(tuned), self._filler.add_missing)
        self._turns = Turns(core, self._shelf, self._filler)

    def info(self) -> Json:
        """The model, its states and lenses, and what is taken at most."""
        core, loaded = self._core, self._core.loaded
        config, settings = text_config(loaded.config), core.settings
        return {
            "model_name": loaded.name,
            "revision": loaded.record.get("commit") or loaded.record.get("revision"),
            "num_layers": n_layers(loaded.config),
            "vocab_size": core.d_vocab,
            "d_model": int(config.hidden_size),
            "n_heads": int(config.num_attention_heads),
            "context": loaded.prompting.context,
            "device": str(loaded.model.device),
            "dtype": loaded.dtype,
            "template": loaded.prompting.template.kind,
            "lenses": core.lenses,
            "states": [state_json(index, state) for index, state in enumerate(core.states)],
            "top_k": core.n_top,
            "store_hidden": core.cache.columns.store_hidden,
            "sdlms_version": metadata.version("sdlms"),
            "limits": settings.limits(),
        }

    def conversations(self) -> list[Json]:
        """Those that are stored, the one changed last first."""
        return self._shelf.summaries()

    def conversation(self, conversation_id: str) -> Json:
        """One conversation with all its tokens."""
        conversation = self._shelf.get(conversation_id).conversation
        return {
            "conversation_id": conversation_id,
            "title": conversation.title,
            "persisted": self._core.cache.persisted(conversation_id),
            "messages": [
                {"role": message.role, "content": message.content, "index": index}
                for index, message in enumerate(conversation.messages)
            ],
            "tokens": [token.as_json() for token in conversation.tokens],
        }

    def update(self, conversation_id: str, title: str | None, persisted: bool | None) -> None:
        """Rename a conversation, or keep its files whatever their age; None leaves it."""
        opened = self._shelf.get(conversation_id)
        if title is not None:
            check_text("title", title, self._core.settings)
            opened.conversation.title, opened.is_renamed = title, True
            self._shelf.save_title(opened)
        if persisted is not None and not self._core.cache.set_persisted(conversation_id, persisted):
            opened.is_renamed = True  # the disk let go of it: its record is stored again
            self._shelf.save_title(opened)
            self._core.cache.set_persisted(conversation_id, persisted)

    def delete(self, conversation_id: str) -> None:
        """Forget a conversation and all that is stored of it; a turn of it ends."""
        self._shelf.remove(conversation_id)
        self._turns.replying.forget(conversation_id)

    def chat(self, request: ChatRequest) -> Ahead[Event]:
        """The events of a turn: start, a token each, done."""
        return self._turns.chat(request)

    def regenerate(
        self, conversation_id: str, position: int, token_id: int, sampling: Sampling
    ) -> Ahead[Event]:
        """The events of a new conversation that has another token at a position of a reply."""
        return self._turns.regenerate(conversation_id, position, token_id, sampling)

    def activations(self, conversation_id: str, position: int, question: Question) -> Pieces[Json]:
        """A click: first the header, then each state, the final one first."""
        opened, given_up = self._shelf.get(conversation_id), Flag()
        panels = activations(self._core, self._filler, opened, position, question, given_up)
        return Pieces(panels, given_up)

    def attention(
        self,
        conversation_id: str,
        position: int,
        layers: Sequence[int] | None,
        given_up: Flag = NEVER,
    ) -> Json:
        """What a position attended to, by layer and head, when the model read it first.

        Who sets `given_up` does not wait for it any more.
        """
        return attention(self._core, self._shelf.get(conversation_id), position, layers, given_up)

    def search(self, conversation_id: str, question: SearchQuestion) -> Json:
        """Where a token is among the likeliest that are stored."""
        return search(self._core, self._shelf.get(conversation_id), question)

    def overview(self, conversation_id: str, lens: str = "logit") -> Json:
        """The conversation in a line."""
        return overview(self._core, self._shelf.get(conversation_id), lens)

    def export(self, conversation_id: str, format: ExportFormat) -> Pieces[str]:
        """A file of the conversation and its lens rows, in pieces."""
        return Pieces.begun(export(self._core, self._shelf.get(conversation_id), format))

    def tokens_of(self, text: str) -> list[Json]:
        """How a text is cut into tokens."""
        check_characters("text", text, self._core.settings)
        return [self.token(token_id) for token_id in self._core.ids_of(text)]

    def token(self, token_id: int) -> Json:
        """A token of the vocabulary."""
        self._core.check_token(token_id)
        return {"token_id": token_id, "text": self._core.text_of(token_id)}

    def status(self) -> dict[str, Any]:
        """How full the cache is, and how many tokens wait for a row."""
        return self._core.cache.status() | {"unfilled_tokens": self._filler.n_unfilled}

    def wait_until_filled(self, seconds: float) -> bool:
        """Whether all rows that can be there are there, after so many seconds at most."""
        return self._filler.wait(seconds)

    def close(self) -> None:
        """End every turn, store what is not stored, and let the cache go."""
        self._turns.close()
        self._filler.stop()
        self._core.computer.close()
        self._filler.close()
        self._core.cache.close()


def _hash_of(tuned: Tuned | None) -> str | None:
    """What tells a tuned lens from others."""
    if tuned is None:
        return None
    digest = hashlib.sha256()
    for tensor in tuned:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

"""What the parts of an explorer share: model, lens, cache, settings, the thread that computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.computing import Computer
from sdlms.explorer.loaded import LoadedModel
from sdlms.explorer.refusals import OutOfRange, one_line
from sdlms.explorer.rereading import Rereading
from sdlms.explorer.settings import ExplorerSettings
from sdlms.explorer.shapes import Arrays
from sdlms.explorer.shelf import Opened
from sdlms.explorer.waiting import WaitingStates
from sdlms.lens.measuring import Lens
from sdlms.lens.rows import LensRows
from sdlms.lens.states import State, states_of
from sdlms.lens.tuned import Tuned, translators_of
from sdlms.lens.unembedding import unembed_dtype_of
from sdlms.models.architectures import n_layers
from sdlms.models.running_text import running_ids
from sdlms.models.token_texts import token_text
from sdlms.models.unembedding import unembedding_of

ROW_NAMES = (
    *("top_ids", "top_probabilities", "entropy_nats", "log_normalizer"),
    *("kl_to_final_nats", "next_log_probability", "next_rank"),
)
HIDDEN = "hidden"
N_TEXTS = 1 << 17


class Core:
    """One model, ready to be asked.

    Attributes:
        loaded: model, tokenizer and template.
        cache: of conversations, their hidden states and their lens rows.
        settings: what is taken at most.
        states: all that a row has, in the order of the forward pass.
        computer: the thread that computes.
        rereading: whose turn it is to have a whole text read again.
        waiting: hidden states whose lens rows are not measured yet.
    """

    def __init__(
        self, loaded: LoadedModel, cache: Cache, tuned: Tuned | None, settings: ExplorerSettings
    ) -> None:
        """Prepare the lens; nothing is computed."""
        self.loaded, self.cache, self.settings = loaded, cache, settings
        on_device = None if tuned is None else tuned.to(loaded.model.device)
        self._translators = translators_of(on_device)
        layers = n_layers(loaded.config)
        self.states = states_of(layers, range(layers))
        self.d_vocab = len(unembedding_of(loaded.model).weight)
        self.n_top = min(settings.top_k, self.d_vocab)
        unembed = unembed_dtype_of(settings.unembed, loaded.model)
        self.lens = Lens(loaded.model, self.n_top, unembed)
        self.computer = Computer()
        self.rereading = Rereading()
        self.waiting = WaitingStates(settings.pending_bytes)
        self.text_of = lru_cache(N_TEXTS)(self._text_of)

    def _text_of(self, token_id: int) -> str:
        """A token as it is shown alone."""
        return token_text(self.loaded.tokenizer, token_id)

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a text as it stands inside a document."""
        return running_ids(self.loaded.tokenizer, text)

    @property
    def lenses(self) -> list[str]:
        """Those that can be asked."""
        return list(self._translators)

    @property
    def n_states(self) -> int:
        """Of every row."""
        return len(self.states)

    def check_lens(self, lens: str) -> None:
        """Refuse a lens that is not there.

        Raises:
            OutOfRange: it is unknown, or no tuned lens is loaded.
        """
        if lens not in self.lenses:
            known = " and ".join(self.lenses)
            raise OutOfRange(f"lens {one_line(lens)} is not loaded; this explorer has {known}")

    def check_token(self, token_id: int) -> None:
        """Refuse a token that the vocabulary does not have.

        Raises:
            OutOfRange: so it is.
        """
        if not 0 <= token_id < self.d_vocab:
            raise OutOfRange(f"token_id must be 0 to {self.d_vocab - 1}, got {token_id}")

    def states_at(self, layers: Sequence[int] | None) -> list[int]:
        """Indices of the states after these layers, ascending; all of them for None.

        Args:
            layers: from 0, -1 for the embedding, in any order.

        Raises:
            OutOfRange: the model has no such layer, or none is asked for.
        """
        if layers is None:
            return list(range(self.n_states))
        last = self.n_states - 2
        absent = sorted({layer for layer in layers if not -1 <= layer <= last})
        if absent:
            raise OutOfRange(
                f"layer {absent[0]} does not exist; the model has 0 to {last}, and -1 is the "
                "embedding"
            )
        if not layers:
            raise OutOfRange("layers is empty; leave it out to see all of them")
        return sorted({layer + 1 for layer in layers})

    def store(self, opened: Opened, group: str, first: int, arrays: Arrays) -> None:
        """Keep rows of the positions from `first` on, unless the conversation was deleted."""
        with opened.guard:
            if not opened.deleted:
                self.cache.put(opened.id, group, first, arrays)

    def measure(
        self,
        lens: str,
        hidden: NDArray[np.float32],
        next_ids: Sequence[int],
        states: Sequence[State] | None = None,
        pins: Sequence[int] = (),
    ) -> LensRows:
        """What a lens says; call it in the thread that computes.

        Args:
            lens: one of `lenses`.
            hidden: `[position, state, d_model]`, the last state the final one.
            next_ids: of each position, -1 where unknown.
            states: of the second axis; None where it has all.
            pins: tokens that are asked for beside the likeliest.
        """
        resid = torch.from_numpy(hidden).to(self.loaded.model.device)
        if (translators := self._translators[lens]) is not None:
            resid = translators.translate(resid, self.states if states is None else states)
        return self.lens.measure(resid, torch.tensor(next_ids, dtype=torch.int64), pins)

"""What a lens run measures, known before the model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdlms.lens.kinds import LensName, lenses_with
from sdlms.lens.states import State
from sdlms.lens.targets import Target
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_source import Saved, TrainingText
from sdlms.models.architectures import n_layers, n_units, text_config
from sdlms.models.inputs import Inputs
from sdlms.models.token_texts import token_text
from sdlms.storage.files import write_errors
from sdlms.storage.lens_file import LensHeader, create_lens, predicted_lens_bytes
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TABLE_ROW_BYTES = 500
TARGET_ROW_BYTES = 200
FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Study:
    """A model, the text it reads, and what is asked of it.

    Attributes:
        inputs: model and tokens.
        record: the model as meta.jsonl has it.
        tokenizer: of the model.
        states: that are looked at, in the order of the forward pass.
        top_k: tokens kept per row, of a vocabulary that may be smaller.
        targets: tokens that are followed.
        saved: the tuned lens that the user names, and its translators.
        training: what a tuned lens is trained on.
    """

    inputs: Inputs
    record: dict[str, Any]
    tokenizer: "PreTrainedTokenizerBase"
    states: Sequence[State]
    top_k: int
    targets: Sequence[Target]
    saved: tuple[Saved, Tuned] | None
    training: TrainingText | None

    @property
    def rows(self) -> Rows:
        """Tokens and documents."""
        return self.inputs.tokens.rows

    @property
    def lenses(self) -> tuple[LensName, ...]:
        """Through which lenses is looked."""
        return lenses_with("translators") if self.saved or self.training else lenses_with()

    @property
    def n_trained_on(self) -> int | None:
        """Measured documents that the saved lens was trained on; None where nobody knows.

        Raises:
            UserError: the list of its documents is damaged.
        """
        trained = self.saved[0].documents() if self.saved else None
        return None if trained is None else len(trained.intersection(self.rows.document_ids))

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return n_units(self.inputs.config, "resid_post")

    @property
    def d_vocab(self) -> int:
        """Tokens that the model knows."""
        return int(text_config(self.inputs.config).vocab_size)

    @property
    def n_top(self) -> int:
        """Tokens kept per row."""
        return min(self.top_k, self.d_vocab)

    def header(self, dtype: str, unembed: str, vocabulary: Sequence[str] = ()) -> LensHeader:
        """What `lens.h5` will hold.

        Args:
            dtype: in which the model computes.
            unembed: in which it is unembedded.
            vocabulary: the text of every token.
        """
        return LensHeader(
            model=self.inputs.source.name,
            revision=self.inputs.source.commit or "",
            n_layers=n_layers(self.inputs.config),
            lenses=self.lenses,
            states=tuple(self.states),
            n_top=self.n_top,
            targets=tuple(self.targets),
            vocabulary=tuple(vocabulary),
            dtype=dtype,
            unembed=unembed,
        )

    def create_file(self, path: Path, dtype: str, unembed: str) -> None:
        """Allocate `lens.h5`; a run that goes on has it.

        Args:
            path: of the file.
            dtype: in which the model computes.
            unembed: in which it is unembedded.

        Raises:
            UserError: the disk is full.
        """
        if path.exists():
            return
        texts = [token_text(self.tokenizer, token_id) for token_id in range(self.d_vocab)]
        with write_errors(path):
            create_lens(path, self.header(dtype, unembed, texts), self.rows)

    def predicted_bytes(self, n_tasks: int) -> int:
        """What the run will take on disk."""
        n_states = len(self.states) * len(self.lenses)
        table = (n_tasks + 1) * (n_states + len(self.lenses)) * TABLE_ROW_BYTES
        n_target_rows = (self.rows.n_documents + n_tasks + 1) * n_states * len(self.targets)
        n_numbers = n_layers(self.inputs.config) * self.d_model * (self.d_model + 1)
        # A lens, and the checkpoint of its training with the two moments of each number.
        tuned = 4 * FLOAT_BYTES * n_numbers if self.training else 0
        lens = predicted_lens_bytes(self.header("", ""), self.rows.n_tokens)
        return lens + table + n_target_rows * TARGET_ROW_BYTES + tuned

    def record_of_inputs(self) -> dict[str, Any]:
        """What the inputs turned out to be, with their hashes; the tasks aside."""
        return {
            "model": self.record,
            "states": [state.name for state in self.states],
            "lenses": list(self.lenses),
            "targets": [target._asdict() for target in self.targets],
            "n_top": self.n_top,
            "tuned_lens": self._saved_record(),
            "tuned_text": self.training.record() if self.training else None,
        }

    def _saved_record(self) -> dict[str, Any] | None:
        """The lens that the user names, and how much of its training text is measured."""
        if self.saved is None:
            return None
        return {**self.saved[0].record(), "n_trained_on": self.n_trained_on}

"""Embedded models and their cards: what each is, how well it predicts each task, its checksums.

A card is the `card.json` beside a model's weights; `scripts/model_card.py` writes it. Cards may say
more than is named here: `fields` keeps all of it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sdlms.errors import UserError, did_you_mean
from sdlms.storage.assets import asset_folder
from sdlms.storage.files import sha256_of

CARD = "card.json"
CONFIG_FILE = "config.json"
REQUIRED = {
    "parameters": int,
    "training_tokens": int,
    "loss_per_token_nats": dict,
    "sha256": dict,
}
# Our word -> the word of a GPT-NeoX config; all embedded models are of that family.
SHAPE = {
    "n_layers": "num_hidden_layers",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_mlp": "intermediate_size",
    "d_vocab": "vocab_size",
    "context": "max_position_embeddings",
    "activation": "hidden_act",
}
Verdict = Literal["as in the card", "differs from the card", "missing", "not in the card"]


@dataclass(frozen=True)
class Card:
    """What is published about one embedded model.

    Attributes:
        folder: holds the model; its name is the model's.
        fields: all of `card.json`, in its order.
        shape: the words of `SHAPE` with the config's values.
    """

    folder: Path
    fields: dict[str, Any]
    shape: dict[str, Any]

    @property
    def name(self) -> str:
        """What `--model` takes."""
        return self.folder.name

    @property
    def parameters(self) -> int:
        """Trained numbers in all."""
        return int(self.fields["parameters"])

    @property
    def training_tokens(self) -> int:
        """Tokens read in training, repeats counted."""
        return int(self.fields["training_tokens"])

    @property
    def loss_per_token_nats(self) -> dict[str, float]:
        """Cross-entropy per token by probe task."""
        return dict(self.fields["loss_per_token_nats"])

    @property
    def mean_loss_nats(self) -> float:
        """The mean of the tasks' losses, each task counting the same."""
        losses = self.loss_per_token_nats.values()
        return sum(losses) / len(losses)

    @property
    def sha256(self) -> dict[str, str]:
        """File name -> digest when the model was published."""
        return dict(self.fields["sha256"])

    @cached_property
    def files(self) -> list[Path]:
        """What lies in the folder, the card itself aside."""
        return sorted(p for p in self.folder.iterdir() if p.is_file() and p.name != CARD)

    @property
    def size_bytes(self) -> int:
        """The size of all its files."""
        return sum(path.stat().st_size for path in self.files)


@dataclass(frozen=True)
class CheckedFile:
    """A file of a model as it is now; one that is missing has no size and no digest."""

    name: str
    size_bytes: int
    sha256: str
    verdict: Verdict


def embedded_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in asset_folder("models").glob(f"*/{CONFIG_FILE}"))


def find_card(model: str) -> Card:
    """The card of an embedded model.

    Raises:
        UserError: there is no such model, or what the package holds of it cannot be read.
    """
    known = embedded_models()
    if model not in known:
        raise UserError(f"no embedded model '{model}'.{did_you_mean(model, known)}")
    return read_card(asset_folder("models") / model)


def read_card(folder: Path) -> Card:
    """The card in a model's folder.

    Raises:
        UserError: `card.json` or `config.json` is missing, malformed, or lacks a field.
    """
    fields, config = _read_object(folder / CARD), _read_object(folder / CONFIG_FILE)
    for name, kind in REQUIRED.items():
        if not isinstance(fields.get(name), kind):
            raise _damaged(folder / CARD, f"'{name}' is missing or malformed")
    losses = list(fields["loss_per_token_nats"].values())
    if not losses or not all(isinstance(loss, int | float) for loss in losses):
        raise _damaged(folder / CARD, "'loss_per_token_nats' is missing or malformed")
    if absent := [name for name in SHAPE.values() if name not in config]:
        raise _damaged(folder / CONFIG_FILE, f"'{absent[0]}' is missing")
    return Card(folder, fields, {ours: config[theirs] for ours, theirs in SHAPE.items()})


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(path, f"{error.strerror}") from None
    except (ValueError, RecursionError):
        raise _damaged(path, "not valid JSON") from None
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    return content


def _damaged(path: Path, reason: str) -> UserError:
    """The package is not as it was shipped."""
    return UserError(f"{path}: {reason}. Install sdlms anew.")


def checked_files(card: Card) -> Iterator[CheckedFile]:
    """Every file of a model, hashed now and compared with its card."""
    present = {path.name: path for path in card.files}
    for name in sorted({*present, *card.sha256}):
        if name not in present:
            yield CheckedFile(name, 0, "", "missing")
            continue
        digest = sha256_of(present[name])
        verdict: Verdict = "as in the card"
        if name not in card.sha256:
            verdict = "not in the card"
        elif digest != card.sha256[name]:
            verdict = "differs from the card"
        yield CheckedFile(name, present[name].stat().st_size, digest, verdict)

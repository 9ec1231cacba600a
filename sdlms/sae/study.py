"""A sweep over one subject, from what is known beforehand to what is measured in the end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdlms.models.layers import named_layers
from sdlms.sae.dictionary import SAVED_AS
from sdlms.sae.documents import Documents
from sdlms.sae.ground import ground_of, scoring_of, table_bytes
from sdlms.sae.measuring import Ground, Row, Saved
from sdlms.sae.members import Member, partner_of
from sdlms.sae.preparation import Prepared
from sdlms.sae.pupil import Pupil
from sdlms.sae.saving import folder_of
from sdlms.sae.screening import SCREENED
from sdlms.sae.subject import Subject

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of a member in scratch and in memory: weights, two moments of Adam, the best weights; a new
# checkpoint beside the old one; and what is published.
COPIES = 2 * 4 + 1


@dataclass(frozen=True, eq=False)
class Study:
    """What is trained on, by which members, and which documents are held out.

    Attributes:
        subject: where activations come from.
        data: what was read of each task, as `meta.jsonl` records it; empty with a capture.
        documents: their roles.
        members: the sweep.
    """

    subject: Subject
    data: list[dict[str, Any]]
    documents: Documents
    members: list[Member]

    def resolved(self, trainer: str) -> dict[str, Any]:
        """What the inputs turned out to be, for `meta.jsonl`.

        Args:
            trainer: whose steps train the members; another version of it makes another run.
        """
        subject, recipe = self.subject, self.members[0].recipe
        return {
            "acts": None if subject.run is None else subject.run.name,
            "model": subject.model,
            "data": self.data,
            "control": subject.control,
            "site": subject.site,
            "layers": subject.layers,
            "d_in": recipe.d_in,
            "width": recipe.width,
            "expansion": recipe.width / subject.d_model,
            "steps": recipe.n_steps,
            "members": list(dict.fromkeys(member.name for member in self.members)),
            "trainer": trainer,
        }

    def description(self) -> list[str]:
        """What will be trained, and on what: a line each, for the log."""
        subject, documents, recipe = self.subject, self.documents, self.members[0].recipe
        source = subject.run.name if subject.run else f"model {subject.model['name']}"
        layers = named_layers(subject.layers)
        roles = f"{_count(len(documents.training), 'document')} to train on"
        sizes = f"{recipe.kind}, {recipe.d_in} units, {_count(recipe.width, 'latent')}"
        steps = f"{_count(recipe.n_steps, 'step')} of {_count(recipe.batch_size, 'token')}"
        lines = [
            f"{source}: {subject.site} at {layers}; {roles}, {len(documents.held_out):,} held out",
            f"{_count(len(self.members), 'member')} ({sizes}), {steps}",
        ]
        if subject.control != "none":
            lines.append(f"a control, not the model itself: {subject.control}")
        return lines

    def predicted_bytes(self) -> int:
        """What the run will take on disk, checkpoints among it."""
        recipe = self.members[0].recipe
        weights = COPIES * 4 * (2 * recipe.d_in + 4) * recipe.width
        widths = {(each.layer, each.name): recipe.width for each in self.members}
        tables = table_bytes(self.subject, self.documents, widths)
        return len(self.members) * weights + tables

    def saved(self, run_folder: Path, pupils: Sequence[Pupil]) -> list[Saved]:
        """The members on disk, with what is known of them without measuring."""
        return [self._saved(run_folder, pupil) for pupil in pupils]

    def _saved(self, run_folder: Path, pupil: Pupil) -> Saved:
        member, recipe, site = pupil.member, pupil.member.recipe, self.subject.site
        facts: Row = {
            "site": site,
            "layer": member.layer,
            "member": member.name,
            "selected": 0,
            "screened": int(pupil.progress.ended == SCREENED),
            "architecture": SAVED_AS[recipe.kind],
            "coefficient": recipe.coefficient,
            "seed": recipe.seed,
            "d_in": recipe.d_in,
            "width": recipe.width,
            "expansion": recipe.width / self.subject.d_model,
            "steps": int(pupil.progress.curve[-1]["step"]),
            "best_step": pupil.progress.best_step,
            "ended": pupil.progress.ended,
        }
        folder = run_folder / folder_of(site, member.layer, member.name)
        return Saved(member.layer, member.name, folder, facts, self._partner(member))

    def _partner(self, member: Member) -> str:
        """The member with the next seed."""
        alike = [
            other.name
            for other in self.members
            if other.layer == member.layer and other.recipe.coefficient == member.recipe.coefficient
        ]
        return partner_of(member.name, alike)

    def ground(
        self,
        prepared: Prepared,
        model: "PreTrainedModel | None",
        device: torch.device,
        seed: int,
        on_halved: Callable[[int], None],
    ) -> Ground:
        """What members are measured on.

        Args:
            prepared: held-out tokens, and statistics of training tokens.
            model: with its head; looked at only where documents are scored.
            device: to compute on.
            seed: of intervals and samples.
            on_halved: told the tokens of a batch when memory runs out.
        """
        subject, documents = self.subject, self.documents
        scoring = scoring_of(subject.rows, documents, model, device, on_halved)
        return ground_of(subject, documents, prepared, scoring, device, seed)


def _count(number: int, noun: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

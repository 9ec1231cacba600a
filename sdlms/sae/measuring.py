"""What saved autoencoders do on held-out documents: a row of `sae.csv` and tables for each."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from sdlms.acts.flattening import TokenRows
from sdlms.errors import UserError
from sdlms.models.architectures import Site
from sdlms.progress import Progress
from sdlms.sae.baselines import Moments, PrincipalEnergies, components_for
from sdlms.sae.cross_entropy import Losses, Recovered, Scoring, constant, recovered, zeros
from sdlms.sae.dictionary import Dictionary, load_dictionary
from sdlms.sae.evaluation import Evaluation, HeldOut, measure
from sdlms.sae.memory import within_memory
from sdlms.sae.stability import Matched, matched_cosine
from sdlms.storage.flat import FlatWriter
from sdlms.storage.latents import (
    LatentsHeader,
    LatentsMember,
    create_latents,
    write_member,
)
from sdlms.storage.tables import Cell

IDENTITY = (
    "site",
    "layer",
    "member",
    "selected",
    "screened",
    "architecture",
    "coefficient",
    "seed",
)
TRAINING = ("d_in", "width", "expansion", "steps", "best_step", "ended")
MEASURED = tuple(field.name for field in fields(Evaluation) if field.name != "reason")
BASELINES = ("pca_components", "pca_fvu")
STABILITY = ("stability", "stability_median", "stability_high_fraction", "stability_latents")
CROSS_ENTROPY = (
    *("ce_clean", "ce_zero", "ce_mean", "ce_sae"),
    *("ce_recovered", "ce_recovered_low", "ce_recovered_high"),
    *("ce_recovered_mean", "ce_recovered_mean_low", "ce_recovered_mean_high"),
    *("ce_tokens", "ce_documents"),
)
COLUMNS = (*IDENTITY, *TRAINING, *MEASURED, *BASELINES, *STABILITY, *CROSS_ENTROPY, "reason")
Row = dict[str, Cell]
REMEDY = "Lower --eval-tokens, or name fewer --layers."


@dataclass(frozen=True, eq=False)
class Saved:
    """One autoencoder on disk.

    Attributes:
        layer: whose activations it takes.
        name: of the member.
        folder: in sae-lens' or sparsify's format.
        facts: what is known without measuring, by column.
        partner: the member that differs in nothing but its seed; empty where there is none.
    """

    layer: int
    name: str
    folder: Path
    facts: Row
    partner: str = ""

    @property
    def is_screened(self) -> bool:
        """Whether it was given up; its cross-entropy is not measured then."""
        return bool(self.facts["screened"])


@dataclass(frozen=True, eq=False)
class Ground:
    """What autoencoders are measured on.

    Attributes:
        site: where in the model.
        layers: of `tokens` and `moments`, in order.
        tokens: of held-out documents.
        moments: of each layer's training tokens.
        document_ids: of the held-out documents.
        document_tasks: of each.
        scoring: model and documents for cross-entropy; None leaves it out.
        device: to compute on.
        seed: of intervals and samples.
    """

    site: Site
    layers: Sequence[int]
    tokens: TokenRows
    moments: Sequence[Moments]
    document_ids: Sequence[str]
    document_tasks: Sequence[str]
    scoring: Scoring | None
    device: torch.device
    seed: int


def measure_all(
    saved: Sequence[Saved], ground: Ground, latents: Path, model: Any, origin: str = ""
) -> list[Row]:
    """Measure every autoencoder, and write `latents.h5`.

    Args:
        saved: of the layers of `ground`, each layer's together.
        ground: what they are measured on.
        latents: the file to write.
        model: name and revision of the model, as `meta.jsonl` records it.
        origin: where the autoencoders come from; empty for the run that is being written.

    Returns:
        A row for each, by `COLUMNS`, in their order; `selected` is 0.

    Raises:
        UserError: a latent or a reconstruction of one of them is not finite, or they do not fit
            the memory.
    """
    # Each is read once more when its layer comes: all layers together may not fit the memory.
    widths = {(each.layer, each.name): load_dictionary(each.folder).width for each in saved}
    header = _header(widths, ground, model, origin)
    create_latents(latents, header)
    rows: list[Row] = []
    n_tokens = len(saved) * int(ground.tokens.offsets[-1])
    what = f"{len(saved)} autoencoders"
    with (
        within_memory(what, ground.device, REMEDY),
        FlatWriter(latents) as writer,
        Progress("measuring", n_tokens, "tokens") as progress,
    ):
        for index, layer in enumerate(ground.layers):
            own = [each for each in saved if each.layer == layer]
            if own:
                rows += _Layer.of(ground, index, own).rows(writer, header, progress)
    return rows


def _header(
    widths: dict[tuple[int, str], int], ground: Ground, model: dict[str, Any], origin: str
) -> LatentsHeader:
    """What `latents.h5` is about."""
    members = {LatentsMember(ground.site, *key): width for key, width in widths.items()}
    return LatentsHeader(
        model=model["name"],
        revision=model["commit"] or "",
        sae=origin,
        widths=members,
        document_ids=ground.document_ids,
        document_tasks=ground.document_tasks,
    )


@dataclass(eq=False)
class _Layer:
    """All autoencoders of one layer."""

    ground: Ground
    index: int
    saved: Sequence[Saved]
    dictionaries: Sequence[Dictionary]

    @classmethod
    def of(cls, ground: Ground, index: int, saved: Sequence[Saved]) -> "_Layer":
        """Read them."""
        dictionaries = [load_dictionary(each.folder).to(ground.device) for each in saved]
        return cls(ground, index, saved, dictionaries)

    def rows(self, writer: FlatWriter, header: LatentsHeader, progress: Progress) -> list[Row]:
        """Their rows; what their latents fire on goes to the file."""
        ground, moments = self.ground, self.ground.moments[self.index]
        tokens = ground.tokens
        held_out = HeldOut(
            tokens.acts[self.index], tokens.offsets, tokens.positions, ground.document_tasks
        )
        energies = PrincipalEnergies.of(moments, held_out.rows)
        rows: list[Row] = []
        alive: dict[str, NDArray[Any]] = {}
        for each, dictionary in zip(self.saved, self.dictionaries, strict=True):
            try:
                found, tables = measure(dictionary, held_out, moments.mean, ground.seed)
            except UserError as error:
                raise UserError(f"{each.name}, layer {each.layer}: {error}") from None
            member = LatentsMember(ground.site, each.layer, each.name)
            write_member(writer, header, member, tables.arrays())
            alive[each.name] = tables.firing_count > 0
            k = components_for(found.l0, dictionary.d_in)
            baselines: Row = {"pca_components": k, "pca_fvu": energies.fvu(k)}
            rows.append({**each.facts, **asdict(found), **baselines})
            progress.advance(len(held_out.rows))
        for row, each in zip(rows, self.saved, strict=True):
            _note(row, *_stability_cells(self._stability(each, alive)))
        self._add_cross_entropy(rows, moments)
        return rows

    def _stability(self, each: Saved, alive: dict[str, NDArray[Any]]) -> Matched:
        """How well the latents that fire are found again with another seed."""
        names = [other.name for other in self.saved]
        if each.partner not in names:
            return Matched(math.nan, math.nan, math.nan, 0, "no second seed to compare with")
        ours, others = (
            self.dictionaries[names.index(name)].decoder[torch.from_numpy(alive[name])]
            for name in (each.name, each.partner)
        )
        return matched_cosine(ours, others, self.ground.seed)

    def _add_cross_entropy(self, rows: Sequence[Row], moments: Moments) -> None:
        """Run the model with the site replaced, by each autoencoder that was not given up."""
        scoring = self.ground.scoring
        kept = [i for i, each in enumerate(self.saved) if scoring and not each.is_screened]
        for i, row in enumerate(rows):
            if i not in kept:
                why = "screened" if scoring else "cross-entropy was left out"
                _note(row, dict.fromkeys(CROSS_ENTROPY, math.nan), why)
        if scoring is None or not kept:
            return
        mean = moments.mean.float().to(self.ground.device)
        replacements = [zeros, constant(mean), *(self.dictionaries[i].reconstruct for i in kept)]
        losses = scoring.losses(self.ground.site, self.ground.layers[self.index], replacements)
        for number, i in enumerate(kept, start=2):
            _note(rows[i], *_ce_cells(losses, number, self.ground.seed))


def _note(row: Row, cells: Row, reason: str) -> None:
    """Fill cells of a row, and add why some of them are NaN."""
    row.update(cells)
    row["reason"] = "; ".join(part for part in (str(row["reason"]), reason) if part)


def _stability_cells(matched: Matched) -> tuple[Row, str]:
    """`STABILITY`, and why it is NaN."""
    values = (matched.mean, matched.median, matched.high_fraction, matched.n_compared)
    return dict(zip(STABILITY, values, strict=True)), matched.reason


def _ce_cells(losses: Losses, number: int, seed: int) -> tuple[Row, str]:
    """`CROSS_ENTROPY` of one replacement, and why it is NaN; 0 is zero, 1 mean ablation."""
    n_tokens = int(losses.counts.sum())
    clean, replaced = losses.clean, losses.replaced
    means = [float(sums.sum()) / n_tokens if n_tokens else math.nan for sums in (clean, *replaced)]
    by_zero, by_mean = (
        recovered(clean, replaced[which], replaced[number], losses.counts, seed) for which in (0, 1)
    )
    values = (
        *(means[0], means[1], means[2], means[number + 1]),
        *(*_interval(by_zero), *_interval(by_mean)),
        *(n_tokens, len(losses.documents)),
    )
    reasons = [
        f"ce_recovered{suffix}: {found.reason}"
        for suffix, found in (("", by_zero), ("_mean", by_mean))
        if found.reason
    ]
    return dict(zip(CROSS_ENTROPY, values, strict=True)), "; ".join(reasons)


def _interval(found: Recovered) -> tuple[float, float, float]:
    return found.value, found.low, found.high

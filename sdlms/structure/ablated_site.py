"""What can be ablated: a finished run's units, in the model that they were recorded from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.acts import load_acts
from sdlms.acts.description import whole
from sdlms.acts.file_source import FileSource
from sdlms.acts.sparse_source import source_of as activations_of
from sdlms.errors import UserError
from sdlms.models.architectures import Site
from sdlms.models.hub_files import weight_files
from sdlms.models.loading import ModelSource, load_config
from sdlms.models.recorded import source_of
from sdlms.models.replacing import Replace
from sdlms.runs.reading import Run, find_run
from sdlms.sae.cross_entropy import check_replaceable
from sdlms.sae.dictionary import load_dictionary
from sdlms.sae.finding import Trained, is_sae_folder
from sdlms.sae.saving import folder_of
from sdlms.storage.counts import masked_lengths
from sdlms.storage.rows import Rows
from sdlms.structure.control_table import PERMUTED
from sdlms.structure.mean_ablation import latents_at_mean, unit_means, units_at_mean

OTHERWISE = "Or leave --ablate out."


@dataclass(frozen=True, eq=False)
class AblatedSite:
    """Units that can be held at their mean while their model runs.

    Attributes:
        run: which holds their activations.
        acts_site: as Acts know it; of latents `sae_latents`.
        site: in the model; of latents, where their autoencoders read.
        model: as `meta.jsonl` records it.
        rows: tokens and documents of the run.
        trained: of latents, each layer's autoencoder; empty for units of the model itself.
    """

    run: Run
    acts_site: str
    site: Site
    model: dict[str, Any]
    rows: Rows
    trained: dict[int, Trained]

    def holding(self, layer: int, device: torch.device) -> Callable[[NDArray[np.int64]], Replace]:
        """Read what the units of a layer are on average.

        Args:
            layer: of the run's.
            device: of the model.

        Returns:
            From units to what holds them at their mean.

        Raises:
            UserError: an activation is NaN or infinite, or a file cannot be read.
        """
        acts = load_acts(self.run, self.acts_site).select_layers(layer)
        means = unit_means(acts, int(masked_lengths(self.rows).sum())).to(device)
        if not self.trained:
            return partial(_holding_units, means)
        dictionary = load_dictionary(self.trained[layer].folder).to(device)
        return lambda latents: latents_at_mean(dictionary, latents, means)


def _holding_units(means: torch.Tensor, units: NDArray[np.int64]) -> Replace:
    return units_at_mean(units, means)


def check_ablatable(run: Run, site: str | None, layers: Sequence[int]) -> AblatedSite:
    """Make sure that units of a run can be ablated; no weights are read or fetched.

    A capture of fresh weights (`--control reinit`) can: it is a control in which nothing should
    matter. One of shuffled tokens cannot, since a loss on them says nothing of what the model does
    with text.

    Args:
        run: complete, of the stage capture or sae-latents.
        site: of its activations; may be left out where there is only one.
        layers: that the run holds.

    Raises:
        UserError: it holds no activations of tokens, or those of shuffled tokens; its model is
            gone or other, predicts no next token, or has no such site; an autoencoder is gone or
            other.
    """
    activations = activations_of(run, run.path.parent, site)
    description, resolved = activations.description, run.start["resolved"]
    with or_without_ablation():
        if not description.has_tokens or description.header.pools:
            raise UserError(f"{run.name} holds pooled activations; tokens are ablated.")
        if description.header.control == PERMUTED:
            raise UserError(
                f"{run.name} is of shuffled tokens, whose loss says nothing of the model. Ablate "
                "units of a capture without --control permute-tokens."
            )
        latents = run.stage == "sae-latents"
        where = resolved["site"] if latents else description.site
        source = source_of(resolved["model"])
        check_replaceable(load_config(source), where)
        _check_weights(source)
        trained = {layer: _trained(run, layer) for layer in layers} if latents else {}
    return AblatedSite(
        run=run,
        acts_site=description.site,
        site=cast(Site, where),
        model=resolved["model"],
        rows=_rows_of(activations),
        trained=trained,
    )


@contextmanager
def or_without_ablation() -> Iterator[None]:
    """A block whose errors end with the other way out."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} {OTHERWISE}") from None


def _check_weights(source: ModelSource) -> None:
    """Make sure that weights in a folder are there; whether they are the same is seen on loading.

    Those of the hub are fetched when they are needed, fresh ones are made.
    """
    if source.commit is not None or source.reinit_seed is not None:
        return
    files = weight_files(source.name, source.folder)
    if absent := [path.name for path in files if not path.is_file()]:
        raise UserError(f"model {source.name}: {absent[0]} is gone from {source.folder}.")


def _trained(run: Run, layer: int) -> Trained:
    """The autoencoder that a sae-latents run has used at a layer."""
    resolved = run.start["resolved"]
    recorded = next(each for each in resolved["members"] if each["layer"] == layer)
    origin, site, member = resolved["sae"], resolved["site"], recorded["member"]
    if origin in [each["run"] for each in run.all_of("input")]:
        trainings = find_run(run.path.parent, origin, "sae-train")
        folder = trainings.path / folder_of(site, layer, member)
    else:
        folder = Path(origin)
    found = Trained(origin, site, layer, member, folder, nan)
    if not is_sae_folder(folder):
        raise UserError(f"{folder}: the SAE of {run.name}, layer {layer}, is gone. Restore it.")
    if found.record()["files"] != recorded["files"]:
        raise UserError(
            f"{folder}: the files of this SAE changed since {run.name} (sha256 differs). "
            "Restore them, or make latents anew: sdlms sae-latents"
        )
    return found


def _rows_of(activations: FileSource) -> Rows:
    """Tokens and documents of finished activations."""
    description = activations.description
    everything = whole(description, np.arange(description.n_documents))
    return Rows(
        ids=activations.ids(everything),
        mask=activations.mask(everything).astype(np.uint8),
        offsets=activations.file.offsets,
        document_ids=list(description.document_ids),
        document_tasks=list(description.document_tasks),
    )

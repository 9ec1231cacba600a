"""What gating does to the latents of sparse autoencoders.

The dense and the gated model read the same windows; the autoencoder of each layer encodes what its
site holds in both. A *kept* latent fires in the dense model and still in the gated one on the same
token, a *new* one in the gated model alone. FVU is the squared error over the squared distance from
the mean, as `sdlms.sae.evaluation` has it, but that the mean is that of the dense model's tokens in
these windows: a sae-train run does not keep that of its training tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.dynamic.kept_neurons import masked, scored_rows
from sdlms.dynamic.latent_sums import Sums, by_name, latent_sums
from sdlms.dynamic.quality import Gate
from sdlms.dynamic.same_model import check_same_model
from sdlms.dynamic.windows import Windows
from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, n_units
from sdlms.models.batching import run_batches
from sdlms.models.gated import Gates, gated
from sdlms.models.recording import Key, recording
from sdlms.models.spreading import input_device
from sdlms.runs.parts import Part
from sdlms.runs.reading import Run
from sdlms.runs.verifying import intact
from sdlms.sae.dictionary import Dictionary, load_dictionary
from sdlms.sae.finding import Trained, trained_in_run
from sdlms.sae.pairing import check_units

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Rows = dict[int, Tensor]
"""Layer -> `[token, unit]` at the tokens that are scored."""


@dataclass(frozen=True, eq=False)
class Autoencoders:
    """Those that a run selected.

    Attributes:
        run: its name.
        site: what they encode.
        members: layer -> name.
        dictionaries: layer -> what was trained, on the CPU.
    """

    run: str
    site: Site
    members: dict[int, str]
    dictionaries: dict[int, Dictionary]


def autoencoders_of(
    run: Run, record: Mapping[str, Any], config: "PreTrainedConfig"
) -> Autoencoders:
    """The autoencoders that a run selected, one of each layer.

    Args:
        run: complete, of the stage sae-train.
        record: of the model that is gated, as `sdlms.models.recorded` makes it.
        config: of that model.

    Raises:
        UserError: it is of another model, of a control, or of something that the model does not
            compute; or its files have changed.
    """
    check_same_model(run, record, "--sae")
    resolved = run.start["resolved"]
    if (control := resolved.get("control", "none")) != "none":
        raise UserError(
            f"--sae: {run.name} was trained on a control ({control}), not on what the model does "
            "with text. Name a run of a capture without --control."
        )
    trained = trained_in_run(run, None, ("all",), None)
    site = str(trained[0].site)
    if site not in SITES:
        raise UserError(
            f"--sae: {run.name} has SAEs of {site}, which is no site of a model. Name a run of "
            f"{', '.join(SITES)}."
        )
    found = {each.layer: _loaded(run, each) for each in trained}
    for each in trained:
        check_units(each, found[each.layer], site, n_units(config, site))
    names = {each.layer: each.member for each in trained}
    return Autoencoders(run.name, site, names, found)


def _loaded(run: Run, trained: Trained) -> Dictionary:
    """An autoencoder that is as it was written."""
    inside = f"{trained.folder.relative_to(run.path).as_posix()}/"
    for record in run.all_of("output"):
        if record["path"].startswith(inside):
            intact(run, record["path"])
    return load_dictionary(trained.folder)


@dataclass(frozen=True, eq=False)
class Latents:
    """One model, its autoencoders, and the text on which both are measured.

    A rule and a kept share cost two forwards over the windows, one dense and one gated; another
    forward, of all together, gives the mean.

    Attributes:
        model: a causal model in evaluation mode.
        autoencoders: of its sites.
        windows: of text; scored tokens count.
        budget: tokens in a batch; halved when memory runs out.
        on_halved: told the new budget, each time.
    """

    model: "PreTrainedModel"
    autoencoders: Autoencoders
    windows: Windows
    budget: int
    on_halved: Callable[[int], None]

    def measure(self, gate: Gate) -> Part:
        """Measure one rule at one kept share.

        Of neurons (`mlp_act`) those that are not kept are zeros: so the down projection reads them.

        Args:
            gate: the rule, what it keeps, and how the model's layers are gated.

        Returns:
            What `latent_rows.rows_of` reads, as JSON has it.

        Raises:
            UserError: a latent or a reconstruction is not finite, a single window does not fit the
                memory; or as `gated`.
        """
        masks: Rows = {}
        how = masked(gate, self.windows, masks.__setitem__)
        means = self._means  # of the model before it is gated
        with gated(self.model, gate.rule, gate.keep, learned=gate.learned, how=how) as gates:

            def forward(chosen: list[int]) -> dict[int, Sums]:
                return self._sums(chosen, gates, masks, means)

            total = self._over_windows(forward)
        tasks = np.zeros(len(self.windows.document_ids), np.int64)
        chosen, documents = scored_rows(self.windows, range(len(self.windows.ids)))
        tasks[documents] = np.repeat(self.windows.task, chosen.sum(axis=1))
        encoders = self.autoencoders
        return {
            "rule": gate.rule,
            "keep": gate.keep,
            "site": encoders.site,
            "members": {str(layer): name for layer, name in encoders.members.items()},
            "task_names": list(self.windows.task_names),
            "document_tasks": tasks.tolist(),
            "layers": {str(layer): by_name(sums) for layer, sums in total.items()},
        }

    @cached_property
    def _dictionaries(self) -> dict[int, Dictionary]:
        """Where the model is."""
        own = self.autoencoders.dictionaries
        return {layer: each.to(self.model.device) for layer, each in own.items()}

    @cached_property
    def _means(self) -> dict[int, Tensor]:
        """`[unit]` float64 of each layer: the mean of the dense model's scored tokens."""

        def forward(chosen: list[int]) -> dict[int, NDArray[np.float64]]:
            acts = self._acts(chosen)
            return {layer: own.cpu().double().sum(dim=0).numpy() for layer, own in acts.items()}

        n_tokens = int(self.windows.scored.sum())
        total = self._over_windows(forward)
        return {layer: torch.from_numpy(sums / n_tokens) for layer, sums in total.items()}

    def _over_windows(
        self, forward: Callable[[list[int]], dict[int, NDArray[np.float64]]]
    ) -> dict[int, NDArray[np.float64]]:
        """Sums of what batches of windows give, layer by layer."""
        n_windows, window = self.windows.ids.shape
        lengths = np.full(n_windows, window, dtype=np.int64)
        total: dict[int, NDArray[np.float64]] = {}
        batches = run_batches(range(n_windows), lengths, self.budget, forward, self.on_halved)
        for _, found, _ in batches:
            total = {layer: sums + total.get(layer, 0) for layer, sums in found.items()}
        return total

    def _sums(self, chosen: list[int], gates: Gates, masks: Rows, means: Rows) -> dict[int, Sums]:
        """Of one batch, `[name, document]` of each layer."""
        with gates.paused():
            dense = self._acts(chosen)
        masks.clear()
        found = self._acts(chosen)
        scored, documents = scored_rows(self.windows, chosen)
        if self.autoencoders.site == "mlp_act":
            for layer, acts in found.items():
                if layer in masks:
                    kept = masks[layer].reshape(*scored.shape, -1)
                    found[layer] = acts.where(kept[torch.from_numpy(scored).to(kept.device)], 0)
        n_documents = len(self.windows.document_ids)
        return {
            layer: latent_sums(
                each, means[layer], (dense[layer], found[layer]), documents, n_documents
            )
            for layer, each in self._dictionaries.items()
        }

    def _acts(self, chosen: Sequence[int]) -> Rows:
        """What the model computes at the site, as it is now."""
        site, layers = self.autoencoders.site, list(self.autoencoders.dictionaries)
        scored = torch.from_numpy(scored_rows(self.windows, chosen)[0])

        def keep(key: Key, tensor: Tensor) -> Tensor | None:
            return tensor[scored.to(tensor.device)] if key[0] == site else None

        # The forward stops with what is recorded last: neurons are read before a rule chooses.
        sites: list[Site] = [site, "mlp_out"] if site == "mlp_act" else [site]
        ids = torch.from_numpy(self.windows.ids[chosen]).to(input_device(self.model))
        with recording(cast("PreTrainedModel", self.model.base_model), layers, sites) as recorded:
            found = recorded.run_keeping(keep, ids)
        return {layer: found[site, layer] for layer in layers}

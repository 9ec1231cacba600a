"""What autoencoders are trained on: a finished capture, or a model that runs while they learn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from sdlms.acts.handle import Acts
from sdlms.acts.opening import collect, load_acts
from sdlms.errors import UserError
from sdlms.models.architectures import Site, n_units, text_config
from sdlms.models.inputs import Inputs
from sdlms.models.layers import layers_among
from sdlms.models.loading import load_base_model, load_causal_model, load_config
from sdlms.models.recorded import load_recorded_causal_model, source_of
from sdlms.runs.reading import Run
from sdlms.sae.cross_entropy import check_replaceable
from sdlms.storage.activations import ActivationsReader
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ACTIVATIONS = "activations.h5"


@dataclass(frozen=True, eq=False)
class Subject:
    """Where activations come from, and what is known before one of them is read.

    Attributes:
        model: as `meta.jsonl` records a model.
        site: where in the model.
        layers: ascending.
        rows: tokens and documents.
        control: what was done to the weights or tokens of the capture, `none` otherwise.
        run: the capture; None where a model runs.
        inputs: of the model that runs.
    """

    model: dict[str, Any]
    site: str
    layers: list[int]
    n_units: int
    rows: Rows
    control: str = "none"
    run: Run | None = None
    inputs: Inputs | None = None

    @property
    def d_model(self) -> int:
        """The model's hidden size; of a capture of neurons its model's config is read.

        Raises:
            UserError: that model is gone.
        """
        if self.inputs is not None:
            return int(text_config(self.inputs.config).hidden_size)
        if self.site != "mlp_act":
            return self.n_units
        return int(text_config(load_config(source_of(self.model))).hidden_size)

    def load_causal(self, dtype: torch.dtype, device: torch.device) -> "PreTrainedModel":
        """The model with its head: the capture's, with the weights that it had."""
        if self.inputs is not None:
            return load_causal_model(self.inputs.source, dtype, device)
        with _or_without_cross_entropy():
            return load_recorded_causal_model(self.model, dtype, device)

    def load_base(self, dtype: torch.dtype, device: torch.device) -> "PreTrainedModel | None":
        """The model without its head where it has to run; None where a capture serves."""
        if self.inputs is None:
            return None
        return load_base_model(self.inputs.source, dtype, device)

    def acts(self, model: "PreTrainedModel | None") -> Acts:
        """Activations of all documents, `blsh`.

        Args:
            model: what `load_causal` or `load_base` gave; not looked at where there is a capture.
        """
        if self.run is not None:
            return load_acts(self.run, self.site).select_layers(self.layers)
        return collect(cast("PreTrainedModel", model), self.rows, self.layers, self.site)


@contextmanager
def _or_without_cross_entropy() -> Iterator[None]:
    """A block whose errors end with the other way out."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} Or leave cross-entropy out: --ce-tokens 0.") from None


def captured_subject(
    run: Run, site: str | None, layers: Sequence[str] | None, *, needs_model: bool
) -> Subject:
    """The activations of a capture run.

    Args:
        run: the capture.
        site: which one; may be left out where there is only one.
        layers: as `--layers` has them; None takes all that were captured.
        needs_model: whether the model will be run too.

    Raises:
        UserError: the run lacks the site or a layer, or its model is needed and is gone, or cannot
            have the site replaced.
    """
    acts, record = load_acts(run, site), run.start["resolved"]["model"]
    chosen = list(acts.layers)
    if layers is not None:
        chosen = layers_among(tuple(layers), acts.layers, int(record["n_layers"]), run.name)
    if needs_model:
        with _or_without_cross_entropy():
            check_replaceable(load_config(source_of(record)), acts.site)
    with ActivationsReader(run.path / ACTIVATIONS) as reader:
        rows = reader.rows()
    control = run.start["resolved"].get("control", "none")
    return Subject(record, acts.site, chosen, acts.n_units, rows, control, run)


def live_subject(
    inputs: Inputs, site: Site, layers: Sequence[int], *, needs_model: bool
) -> Subject:
    """What a model computes of its documents.

    Args:
        inputs: the model and its documents.
        site: where in the model.
        layers: from 0.
        needs_model: whether the site will be replaced, too.

    Raises:
        UserError: the model cannot have the site replaced, or has no weights.
    """
    if needs_model:
        with _or_without_cross_entropy():
            check_replaceable(inputs.config, site)
    units = n_units(inputs.config, site)
    record, rows = inputs.model_record(), inputs.tokens.rows
    return Subject(record, site, sorted(layers), units, rows, inputs=inputs)

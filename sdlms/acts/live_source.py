"""Activations that a model computes when they are asked for; one forward pass serves all layers."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.acts.description import STORE_DTYPES, Description, Ranges
from sdlms.acts.plan import numbers_of
from sdlms.acts.sources import Cost, Positions, Reduce, Take, Wanted, steps_of
from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, architecture_of, n_layers, text_config
from sdlms.models.batching import DEFAULT_BUDGET, longest_first, run_batches
from sdlms.models.device import device_of, dtype_of
from sdlms.models.forward import padded_inputs
from sdlms.models.fresh import state_hash
from sdlms.models.inputs import header_of, read_model
from sdlms.models.layers import layers_of
from sdlms.models.loading import ModelSource, load_base_model
from sdlms.models.recording import Key, Recording, recording
from sdlms.models.spreading import input_device
from sdlms.progress import LOGGER
from sdlms.storage.activations import Header, StoreDtype
from sdlms.storage.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Load = Callable[[], "PreTrainedModel"]


class LiveSource:
    """One site of a model over some documents.

    Attributes:
        description: what a scan gives; values are rounded to its type before anything else.
        n_forwards: batches that were run so far.
        budget: tokens in a batch, padding included; halved when memory runs out.
    """

    all_layers_at_once = True

    def __init__(self, load: Load, rows: Rows, header: Header, budget: int) -> None:
        """Load nothing yet; `header` has one site."""
        (site,) = header.sites
        self._load = load
        self._model: PreTrainedModel | None = None
        self._rows, self.budget, self.n_forwards = rows, budget, 0
        self.description = Description(
            dims="blsh",
            site=site,
            layers=tuple(header.layers),
            n_units=header.units[site, header.layers[0]],
            dtype=getattr(torch, header.store_dtype[site]),
            lengths=rows.lengths,
            document_ids=rows.document_ids,
            document_tasks=rows.document_tasks,
            header=header,
        )

    @property
    def place(self) -> str:
        """The model and site."""
        return f"model {self.description.header.model} {self.description.site}"

    def mask(self, ranges: Ranges) -> NDArray[np.bool_]:
        """`[row]`, which rows statistics read."""
        return self._at(self._rows.mask, ranges).astype(np.bool_)

    def ids(self, ranges: Ranges) -> NDArray[np.int32]:
        """`[row]` token ids."""
        return self._at(self._rows.ids, ranges).astype(np.int32)

    def _at(self, values: NDArray[Any], ranges: Ranges) -> NDArray[Any]:
        """What belongs to each token, at some ranges."""
        starts = ranges.starts(self._rows.offsets)
        found: NDArray[Any] = values[np.repeat(starts, ranges.lengths) + steps_of(ranges)]
        return found

    def scan(self, wanted: Wanted, reduce: Reduce, take: Take) -> None:
        """Run the model once over every document, longest first; reduce inside its hooks."""
        model = self._loaded()
        lengths = self._rows.lengths[wanted.ranges.documents]
        order = longest_first(lengths)
        site: Site = self.description.site  # type: ignore[assignment]
        with recording(model, wanted.layers, [site]) as recorded:

            def forward(positions: list[int]) -> dict[Key, list[Tensor]]:
                return self._forward(recorded, wanted, np.array(positions), reduce)

            for positions, found, budget in run_batches(
                order, lengths, self.budget, forward, self._halved
            ):
                self.budget, at = budget, np.array(positions)
                for layer in wanted.layers:
                    take(layer, at, found[site, layer])
                del found  # before the next forward
        self._take_empty(wanted, np.flatnonzero(lengths == 0), reduce, take)

    def _forward(
        self, recorded: Recording, wanted: Wanted, positions: Positions, reduce: Reduce
    ) -> dict[Key, list[Tensor]]:
        """One batch: what `reduce` makes of each layer, on the CPU."""
        assert self._model is not None
        ranges = wanted.ranges.at(positions)
        device = input_device(self._model)
        causal = architecture_of(self._model.config.model_type).causal
        inputs = padded_inputs(self._rows, ranges.documents.tolist(), device, causal=causal)
        bounds = list(zip(ranges.first.tolist(), ranges.lengths.tolist(), strict=True))

        def keep(key: Key, acts: Tensor) -> list[Tensor]:
            pieces = [acts[i, first : first + n] for i, (first, n) in enumerate(bounds)]
            return reduce(positions, self._rounded(torch.cat(pieces), key[1], ranges))

        self.n_forwards += 1
        kept = recorded.run_keeping(keep, *inputs)
        return {key: [tensor.cpu() for tensor in tensors] for key, tensors in kept.items()}

    def _rounded(self, acts: Tensor, layer: int, ranges: Ranges) -> Tensor:
        """Rows of one layer in the stored type, as a file would hold them."""
        rounded = acts.to(self.description.dtype)
        if rounded.dtype == torch.float16 and acts.dtype != torch.float16:
            overflown = (rounded.isinf() & acts.isfinite()).any(1)
            if overflown.any():
                row = int(overflown.nonzero()[0])
                position = np.searchsorted(ranges.offsets, row, side="right") - 1
                document = self.description.document_ids[ranges.documents[position]]
                raise UserError(
                    f"collect: a value of layer {layer}, document {document}, is beyond the range "
                    "of float16. Use store_dtype='bfloat16' or 'float32'."
                )
        return rounded

    def _take_empty(self, wanted: Wanted, empty: Positions, reduce: Reduce, take: Take) -> None:
        """Documents without tokens need no forward, but have a place in the result."""
        if len(empty):
            nothing = torch.empty((0, self.description.n_units), dtype=self.description.dtype)
            for layer in wanted.layers:
                take(layer, empty, reduce(empty, nothing))

    def _loaded(self) -> "PreTrainedModel":
        """The model, loaded at the first scan."""
        if self._model is None:
            self._model = self._load()
        if self._model.training:
            raise UserError("the model is in training mode. Call model.eval() first.")
        return self._model

    def _halved(self, budget: int) -> None:
        LOGGER.warning("out of memory: batches are halved to %d tokens", budget)

    def expect(self, wanted: Wanted) -> None:
        """A model is not run in the background."""

    def cost(self, wanted: Wanted) -> Cost:
        """A forward over whole documents, whichever of their rows are wanted."""
        tokens = int(self._rows.lengths[wanted.ranges.documents].sum())
        batch = min(self.budget, tokens)
        row_bytes = self.description.n_units * self.description.dtype.itemsize
        n_held = 1 + len(wanted.layers) if wanted.unpooled else 1
        return Cost(
            buffer_bytes=batch * row_bytes * n_held, block_rows=batch, forward_tokens=tokens
        )

    def fingerprint(self) -> str:
        """Of weights, config, types, tokens, ids and tasks; loads the model."""
        model = self._loaded()
        known = [
            state_hash(model),
            model.config.to_json_string(use_diff=False),
            self.description.site,
            str(self.description.dtype),
            list(self._rows.document_ids),
            list(self._rows.document_tasks),
        ]
        digest = hashlib.sha256(json.dumps(known).encode())
        for values in (self._rows.ids, self._rows.mask, self._rows.offsets):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def live_source(
    model: "PreTrainedModel | str | Path",
    rows: Rows,
    layers: int | Sequence[int] | str,
    site: str,
    store_dtype: StoreDtype | None = None,
) -> LiveSource:
    """What a model records over documents, checked; nothing is loaded or run yet.

    Args:
        model: a loaded model (a head is left aside), or what `--model` takes.
        rows: its tokens.
        layers: numbers, or what `--layers` takes.
        site: one of the table's sites.
        store_dtype: to which values are rounded; float16 for neurons, bfloat16 otherwise.

    Raises:
        UserError: the table does not know the model, or there is no such layer, site or type.
    """
    if site not in SITES:
        raise UserError(f"site '{site}' is none of {', '.join(SITES)}.")
    if (store_dtype or "auto") not in ("auto", *(stored := STORE_DTYPES.values())):
        raise UserError(f"store_dtype '{store_dtype}' is none of {', '.join(stored)}.")
    config: PreTrainedConfig
    load: Load
    if isinstance(model, str | Path):
        source, config = read_model(str(model), None)
        device = device_of("auto")
        load = partial(load_base_model, source, dtype_of("auto", device), device)
    else:
        if not isinstance(getattr(model, "base_model", None), torch.nn.Module):
            raise UserError(
                f"collect: {model!r:.40} is no transformers model, name or folder of one."
            )
        base = cast("PreTrainedModel", model.base_model)
        if base.training:
            raise UserError("collect: the model is in training mode. Call model.eval() first.")
        config, device = base.config, input_device(base)
        name = config.name_or_path or config.model_type
        source, load = ModelSource(name, Path(name)), partial(_same, base)
    words = (
        layers if isinstance(layers, str) else ",".join(map(str, np.atleast_1d(numbers_of(layers))))
    )
    numbers = layers_of(tuple(words.split(",")), n_layers(config))
    _check_tokens(rows, config)
    header = header_of(source, config, [site], numbers, store_dtype or "auto")
    return LiveSource(load, rows, header, DEFAULT_BUDGET[device.type])


def _same(model: "PreTrainedModel") -> "PreTrainedModel":
    """A model that is loaded already."""
    return model


def _check_tokens(rows: Rows, config: "PreTrainedConfig") -> None:
    """Refuse tokens that the model does not know, and documents longer than its context."""
    sizes = text_config(config)
    if rows.n_tokens and not 0 <= rows.ids.min() <= rows.ids.max() < sizes.vocab_size:
        raise UserError(f"token ids must be 0 to {sizes.vocab_size - 1}, those the model knows.")
    context = getattr(sizes, "max_position_embeddings", None)
    if context is not None and rows.n_documents and rows.lengths.max() > context:
        document = int(rows.lengths.argmax())
        raise UserError(
            f"document {document} has {rows.lengths[document]} tokens; the model reads {context}."
        )

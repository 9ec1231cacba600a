"""An explorer from what the command was told: model, cache and tuned lens."""

from dataclasses import dataclass
from pathlib import Path

import torch

from sdlms.explorer.cache.columns import Columns, store_hidden_of
from sdlms.explorer.cache.lens_cache import Cache
from sdlms.explorer.cache.limits import CacheLimits
from sdlms.explorer.loaded import LoadedModel, load_for_exploring
from sdlms.explorer.service import Explorer
from sdlms.explorer.settings import ExplorerSettings
from sdlms.lens.tuned_files import read_tuned
from sdlms.lens.unembedding import unembed_dtype_of
from sdlms.models.architectures import n_layers, text_config
from sdlms.models.loading import ModelSource
from sdlms.models.unembedding import unembedding_of
from sdlms.progress import LOGGER


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where and how conversations are kept.

    Attributes:
        folder: of the cache; below it each model has its own.
        store_hidden: auto, none, fp16 or int8.
        limits: of memory, disk and age.
    """

    folder: Path
    store_hidden: str
    limits: CacheLimits


def open_explorer(
    source: ModelSource,
    dtype: torch.dtype,
    device: torch.device,
    storage: Storage,
    tuned_lens: Path | None,
) -> Explorer:
    """Load a model and open what was kept of its conversations.

    Args:
        source: of a causal model.
        dtype: of the weights.
        device: where they go.
        storage: of conversations.
        tuned_lens: folder of a tuned lens.

    Raises:
        UserError: the model or the lens cannot be read, or do not belong together.
    """
    loaded = load_for_exploring(source, dtype, device)
    d_model = int(text_config(loaded.config).hidden_size)
    tuned = None if tuned_lens is None else read_tuned(tuned_lens, loaded.record, d_model)
    settings = ExplorerSettings()
    return Explorer(loaded, _cache(loaded, storage, settings), tuned, settings)


def _cache(loaded: LoadedModel, storage: Storage, settings: ExplorerSettings) -> Cache:
    """The model's part of the cache; rows have the states and widths of the model.

    Other than states, rows depend on how the lens multiplies too.
    """
    n_states = n_layers(loaded.config) + 1
    d_model = int(text_config(loaded.config).hidden_size)
    n_top = min(settings.top_k, len(unembedding_of(loaded.model).weight))
    store_hidden = store_hidden_of(storage.store_hidden, n_states, d_model, n_top)
    columns = Columns(n_states, d_model, n_top, store_hidden)
    key = loaded.cache_key() | {"unembed": unembed_dtype_of(settings.unembed, loaded.model)}
    return Cache(storage.folder, key, columns, storage.limits, LOGGER.warning)

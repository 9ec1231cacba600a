"""Run a causal model for the states of its residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sdlms.lens.states import State
from sdlms.models.architectures import Site, check_causal, n_units
from sdlms.models.recording import Key, Recording, recording

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Residuals:
    """The forwards of one `residuals` context."""

    def __init__(
        self, recorded: Recording, states: Sequence[State], d_model: int, dtype: torch.dtype
    ) -> None:
        self._recorded, self._d_model, self._dtype = recorded, d_model, dtype
        self._n_states = len(states)
        # What a tensor of the forward becomes: the place it is copied or added to.
        self._copied: dict[Key, list[int]] = {}
        self._added: dict[Key, int] = {}
        for place, (site, layer) in enumerate(states):
            copied: Site = "resid_pre" if site == "resid_mid" else site
            self._copied.setdefault((copied, layer), []).append(place)
            if site == "resid_mid":
                self._added["attn_out", layer] = place

    def run(self, input_ids: Tensor) -> Tensor:
        """Run the model as far as the last state; no gradients, no cache.

        Args:
            input_ids: `[batch, token]` int64, padded to the right if at all.

        Returns:
            `[batch, token, state, d_model]` in the model's dtype, on its device: raw residuals,
            the final norm comes with the lens.

        Raises:
            ValueError: If the model is in training mode.
        """
        shape = (*input_ids.shape, self._n_states, self._d_model)
        found = torch.empty(shape, dtype=self._dtype, device=input_ids.device)

        def keep(key: Key, tensor: Tensor) -> None:
            for place in self._copied.get(key, ()):
                found[:, :, place] = tensor
            if key in self._added:
                found[:, :, self._added[key]] += tensor

        self._recorded.run_keeping(keep, input_ids)
        return found


@contextmanager
def residuals(model: PreTrainedModel, states: Sequence[State]) -> Iterator[Residuals]:
    """Record the residual stream at `states` inside the block.

        with residuals(model, states_of(n_layers(model.config), layers)) as stream:
            resid = stream.run(input_ids)

    The state after attention is `resid_pre + attn_out` in the model's dtype. Forwards end with the
    last state: the unembedding is left to the lens.

    Args:
        model: A causal model in eval mode.
        states: In the order in which the result has them.

    Yields:
        What runs the model.

    Raises:
        UserError: If the model is an encoder, or the architecture table does not describe it.
        ValueError: If `states` is empty or names a layer that does not exist.
    """
    check_causal(model.config)
    wanted: dict[str, tuple[Site, ...]] = {
        "resid_pre": ("resid_pre",),
        "resid_mid": ("resid_pre", "attn_out"),
        "resid_post": ("resid_post",),
    }
    sites = sorted({site for state in states for site in wanted[state.site]})
    layers = sorted({state.layer for state in states})
    d_model = n_units(model.config, "resid_post")
    base = cast("PreTrainedModel", model.base_model)
    with recording(base, layers, sites) as recorded:
        yield Residuals(recorded, states, d_model, model.dtype)

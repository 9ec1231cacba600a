"""The tuned lens: an affine map per hidden state, before final norm and unembedding.

h becomes h + A h + b, so that what is learned is the difference from the logit lens. Source:
Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens"
(arXiv:2303.08112), section 3; the residual form is that of the tuned-lens library.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdlms.lens.kinds import KINDS, lenses_with
from sdlms.lens.states import State


class Tuned(NamedTuple):
    """The translators of one model.

    Translator 0 reads the embedding, translator n + 1 the residual after block n; the state after
    the last block needs none.

    Attributes:
        weight: `[translator, d_model, d_model]` float32; as of `nn.Linear`, rows are outputs.
        bias: `[translator, d_model]` float32.
    """

    weight: Tensor
    bias: Tensor

    @property
    def n_layers(self) -> int:
        """Blocks of the model: one translator for the embedding, none for the last block."""
        return len(self.bias)

    def to(self, device: torch.device) -> "Tuned":
        """The same on another device."""
        return Tuned(self.weight.to(device), self.bias.to(device))

    def translator_of(self, state: State) -> int | None:
        """The number of a state's translator; None for the state after the last block.

        Raises:
            ValueError: the state lies inside a block, or beyond the model.
        """
        number = 0 if state.site == "resid_pre" else state.layer + 1
        before_first = state.site == "resid_pre" and state.layer > 0
        if state.site == "resid_mid" or before_first or number > self.n_layers:
            raise ValueError(f"no translator is trained for {state.name}")
        return None if number == self.n_layers else number

    def translate(self, resid: Tensor, states: Sequence[State]) -> Tensor:
        """What the final norm is to read instead of each state.

        Args:
            resid: `[token, state, d_model]`, raw residuals; any float dtype, on the lens' device.
            states: of the second axis.

        Returns:
            The same shape in float32; the state after the last block as it was.

        Raises:
            ValueError: a state has no translator.
        """
        translated = resid.float().clone()
        for place, state in enumerate(states):
            number = self.translator_of(state)
            if number is not None:
                own = translated[:, place]
                translated[:, place] += torch.nn.functional.linear(
                    own, self.weight[number], self.bias[number]
                )
        return translated


def translators_of(tuned: Tuned | None) -> dict[str, Tuned | None]:
    """What goes before each lens that can be looked through.

    Args:
        tuned: None where there are no translators.

    Returns:
        By the lens' name, in the order of `KINDS`; None where the state is read as it is.
    """
    there = lenses_with() if tuned is None else lenses_with("translators")
    kinds = [kind for kind in KINDS if kind.name in there]
    return {kind.name: tuned if kind.needs == "translators" else None for kind in kinds}

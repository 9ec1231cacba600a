"""One sparse autoencoder while it is trained: what the loop over batches knows of it.

Activations come centred by nobody and scaled by the loop, so that their mean squared norm is d_in;
the decoder's bias starts at their mean. Who trains is `sdlms.sae.standard` and `sdlms.sae.topk`
(our own steps) or `sdlms.sae.lens_learner` (sae-lens' training classes).
"""

from typing import NamedTuple, Protocol

from torch import Tensor

from sdlms.sae.recipe import Recipe


class Losses(NamedTuple):
    """Of one update, as means over its tokens.

    Attributes:
        reconstruction: sum over units of the squared error.
        sparsity: what is added for being active, by the coefficient of that step; 0 for topk.
        n_active: latents that are not 0.
    """

    reconstruction: float
    sparsity: float
    n_active: float


class Sums(NamedTuple):
    """What a learner gives on activations that it does not learn from, summed over tokens.

    Attributes:
        n_tokens: how many there were.
        squared_error: over tokens and units.
        sparsity: the sparsity term by the whole coefficient, not that of the warm-up.
        n_active: latents that are not 0, over tokens.
    """

    n_tokens: int
    squared_error: float
    sparsity: float
    n_active: int


class Learner(Protocol):
    """One autoencoder, its optimizer, and how far it has come."""

    recipe: Recipe
    n_done: int

    def step(self, acts: Tensor) -> None:
        """One update.

        Args:
            acts: `[token, unit]` float32, scaled; not changed.
        """

    def losses(self) -> Losses:
        """Of the last update; on a GPU this waits for it."""

    def n_dead(self) -> int:
        """Latents that have not fired for more than `dead_after_steps` updates."""

    def calibrate(self, acts: Tensor) -> None:
        """Set what no update depends on, before weights are evaluated or kept.

        Args:
            acts: `[token, unit]` float32, scaled, of training tokens: batchtopk and matryoshka put
                the threshold where k of their latents are active on average. Others do nothing.
        """

    def evaluate(self, acts: Tensor) -> Sums:
        """The objective on other activations, `[token, unit]` float32, scaled."""

    def weights(self) -> dict[str, Tensor]:
        """The parameters as they are now, by sae-lens' names; the tensors themselves, no copies.

        `W_enc [unit, latent]`, `W_dec [latent, unit]`, `b_dec [unit]`, and `b_enc [latent]`; with
        `threshold [latent]` for jumprelu, batchtopk and matryoshka; for gated `b_gate`, `b_mag` and
        `r_mag` in the place of `b_enc`. Everything is float32.
        """

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on, by name; copies are not needed."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state, bit by bit as if nothing had been in between."""

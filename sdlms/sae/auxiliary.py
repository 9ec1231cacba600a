"""The loss that revives dead latents: they learn what the living ones leave over."""

import torch
from torch import Tensor


class Revival:
    """The dead latents of one update, of which each token takes the largest few.

    Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendix A.2; the number
    of latents and the loss's share for few dead ones as sae-lens 6.54 has them.
    """

    def __init__(self, dead: Tensor, most: int, products: torch.dtype) -> None:
        """Of the latents `dead` (`[latent]` bool, at least one), a token takes at most `most`."""
        self._which = dead.nonzero()[:, 0]
        self._products = products
        n_dead = len(self._which)
        self._k = min(most, n_dead)
        self._share = min(n_dead / most, 1.0)

    def add_gradients(
        self,
        grads: dict[str, Tensor],
        decoder: Tensor,
        scored: tuple[Tensor, Tensor],
        passed: tuple[Tensor, Tensor],
    ) -> None:
        """Add to the gradients of the dead latents, n_tokens / 2 times too large.

        Args:
            grads: `W_enc [latent, unit]`, `W_dec [latent, unit]`, `b_enc [latent]`.
            decoder: `[latent, unit]` float32.
            scored: what latents compete by, `[token, latent]`, and the decoder's norms.
            passed: the encoder's input and the error without these latents, `[token, unit]`.
        """
        centred, error = passed
        rows = decoder[self._which]
        values, chosen = self._taken(scored[0].index_select(1, self._which))
        values = (values.float() / scored[1][self._which]).to(self._products)
        # Both are differences from the input, so that their sum is what is left over.
        gap = (self._product(values, rows) + error) * self._share
        inner = self._product(gap, rows.T) * chosen
        grads["W_dec"].index_add_(0, self._which, self._product(values.T, gap))
        grads["W_enc"].index_add_(0, self._which, self._product(inner.T, centred))
        grads["b_enc"].index_add_(0, self._which, inner.sum(0))

    def _taken(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The scores with 0 where another dead latent is preferred, and where they are kept."""
        chosen = torch.ones_like(scores, dtype=torch.bool)
        if self._k < scores.shape[1]:
            best = torch.topk(scores, self._k, sorted=False).indices
            chosen = torch.zeros_like(chosen).scatter_(1, best, True)
        return scores * chosen, chosen

    def _product(self, left: Tensor, right: Tensor) -> Tensor:
        """A matrix product in the products' type, as float32."""
        return (left.to(self._products) @ right.to(self._products)).float()

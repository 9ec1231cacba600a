"""Training steps of the top-k autoencoder, with the auxiliary loss that revives dead latents.

sae-lens 6.54's algorithm with `rescale_acts_by_decoder_norm`: latents compete by their size times
their decoder's norm, and are decoded by their own size, so that the norm has no gradient. One
product is dense; the others touch the k active latents of each token.
"""

import torch
from torch import Tensor

from sdlms.sae.auxiliary import Revival
from sdlms.sae.largest import largest
from sdlms.sae.own import OwnLearner
from sdlms.sae.sparse import Entries


class TopKLearner(OwnLearner):
    """One top-k autoencoder in training; see `sdlms.sae.learner.Learner`."""

    @property
    def _k(self) -> int:
        """Latents that are kept per token."""
        return int(self.recipe.coefficient)

    def _fill_gradients(self, acts: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and backward."""
        params, grads = self.adam.params, self.adam.grads
        centred, scores, norms = self._scored(acts)
        entries, values = self._active(scores, norms)
        error = entries.decoded(values, params["W_dec"]).sub_(centred)
        inner = entries.products(error, params["W_dec"]) * (values > 0)
        grads["W_dec"].copy_(entries.gathered(values, error))
        grads["W_enc"].copy_(entries.gathered(inner, centred))
        grads["b_enc"].copy_(entries.summed(inner))
        dead = self._dead()
        if bool(dead.any()):
            revival = Revival(dead, self.recipe.d_in // 2, self._products)
            revival.add_gradients(grads, params["W_dec"], (scores, norms), (centred, error))
        grads["b_dec"].copy_(error.sum(0) - grads["b_enc"] @ params["W_enc"])
        fired = torch.zeros_like(dead)
        fired[entries.latents[values > 0]] = True
        return self._stacked(values, error), fired

    def _scored(self, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder's input; what latents compete by, `[token, latent]`; the decoder's norms."""
        params, norms, centred = self.adam.params, self._norms(), self._centred(acts)
        encoder = self._room("encoder", *params["W_enc"].shape)
        encoder.copy_(params["W_enc"] * norms[:, None])
        bias = (params["b_enc"] * norms).to(self._products)
        scores = self._room("scores", len(acts), self.recipe.width)
        torch.addmm(bias, self._as_factor("x", centred), encoder.T, out=scores)
        return centred, scores, norms

    def _active(self, scores: Tensor, norms: Tensor) -> tuple[Entries, Tensor]:
        """The k latents of each token and their values, at least 0."""
        found, latents = largest(scores, self._k)
        first = torch.arange(0, latents.numel(), self._k, device=scores.device)
        tokens = torch.arange(len(scores), device=scores.device).repeat_interleave(self._k)
        entries = Entries(tokens, latents.flatten(), first, self.recipe.width)
        return entries, found.flatten().float().relu_() / norms.index_select(0, entries.latents)

    def _stacked(self, values: Tensor, error: Tensor) -> Tensor:
        """Squared error, no sparsity term, active latents."""
        squared_error = torch.linalg.vector_norm(error, dtype=torch.float64).square()
        return torch.stack([squared_error, torch.zeros_like(squared_error), (values > 0).sum()])

    def _sums(self, acts: Tensor) -> Tensor:
        """Forward alone."""
        centred, scores, norms = self._scored(acts)
        entries, values = self._active(scores, norms)
        error = entries.decoded(values, self.adam.params["W_dec"]).sub_(centred)
        return self._stacked(values, error)

"""Training steps of the standard autoencoder: ReLU, and an L1 norm weighted by the decoder's norms.

sae-lens 6.54's algorithm with five matrix products where autograd makes six, and few passes over
`[token, latent]`: the latents are summed over tokens before they meet the decoder's norms, and the
gradient of the decoder's bias takes the latents' gradients summed. On a CPU, once few latents are
active, four of the five products touch only those.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sdlms.sae.own import OwnLearner, column_sums
from sdlms.sae.sparse import Entries

# Shares of active latents where both ways cost about the same on a CPU, at 128 to 512 units.
SPARSE_BELOW = {torch.float32: 1 / 12, torch.bfloat16: 1 / 24}


class _Passed(NamedTuple):
    """What the forward pass leaves.

    Attributes:
        centred: `[token, unit]` float32, the activations without the decoder's bias.
        latents: `[token, latent]` in the products' type.
        n_active: of them.
        entries: where they are active, and their values in float32, if that is known.
        error: `[token, unit]` float32, reconstruction minus input.
    """

    centred: Tensor
    latents: Tensor
    n_active: Tensor
    entries: tuple[Entries, Tensor] | None
    error: Tensor


class StandardLearner(OwnLearner):
    """One standard autoencoder in training; see `sdlms.sae.learner.Learner`."""

    def _fill_gradients(self, acts: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and backward."""
        passed, l1 = self._forward(acts), self.recipe.coefficient_at(self.n_done)
        totals, norms = column_sums(passed.latents), self._norms()
        params, grads = self.adam.params, self.adam.grads
        if passed.entries is None:
            self._dense_backward(passed, l1 / 2 * norms)
        else:
            self._sparse_backward(passed, passed.entries, l1 / 2 * norms)
        of_norms = (l1 / 2 * totals / norms).where(norms != 0, 0.0)
        grads["W_dec"].addcmul_(of_norms[:, None], params["W_dec"])
        grads["b_dec"].copy_(passed.error.sum(0) - grads["b_enc"] @ params["W_enc"])
        return _sums_of(passed, l1 * torch.dot(totals, norms)), totals > 0

    def _dense_backward(self, passed: _Passed, penalty: Tensor) -> None:
        """Fill the gradients of encoder and decoder, but for what the norm adds to the latter.

        Args:
            passed: the forward pass.
            penalty: `[latent]`, what the L1 norm adds to the gradient of every active latent.
        """
        grads, latents = self.adam.grads, passed.latents
        decoder = self._as_factor("decoder", self.adam.params["W_dec"])
        error = self._as_factor("error factor", passed.error)
        inner = self._room("inner", *latents.shape)
        torch.addmm(penalty.to(self._products), error, decoder.T, out=inner)
        torch.ops.aten.threshold_backward.grad_input(inner, latents, 0, grad_input=inner)
        self._product_into(grads["W_dec"], latents.T, error)
        self._product_into(grads["W_enc"], inner.T, self._as_factor("x", passed.centred))
        grads["b_enc"].copy_(column_sums(inner))

    def _sparse_backward(
        self, passed: _Passed, entries: tuple[Entries, Tensor], penalty: Tensor
    ) -> None:
        """The same from the active latents alone."""
        grads, (where, values) = self.adam.grads, entries
        inner = where.products(passed.error, self.adam.params["W_dec"])
        inner += penalty.index_select(0, where.latents)
        grads["W_dec"].copy_(where.gathered(values, passed.error))
        grads["W_enc"].copy_(where.gathered(inner, passed.centred))
        grads["b_enc"].copy_(where.summed(inner))

    def _forward(self, acts: Tensor) -> _Passed:
        """Encode and decode."""
        params = self.adam.params
        centred = self._centred(acts)
        latents = self._room("latents", len(acts), self.recipe.width)
        encoder = self._as_factor("encoder", params["W_enc"])
        bias = params["b_enc"].to(self._products)
        torch.addmm(bias, self._as_factor("x", centred), encoder.T, out=latents).relu_()
        active = torch.ne(latents, 0, out=self._room("inner", *latents.shape))
        n_active = column_sums(active).sum(dtype=torch.float64)
        error = self._room("error", *acts.shape, dtype=torch.float32)
        if self._are_few(n_active, latents):
            where, values = Entries.of(latents)
            torch.sub(where.decoded(values, params["W_dec"]), centred, out=error)
            return _Passed(centred, latents, n_active, (where, values), error)
        decoder = self._as_factor("decoder", params["W_dec"])
        decoded = torch.mm(latents, decoder, out=self._room("decoded", *acts.shape))
        torch.sub(decoded, centred, out=error)
        return _Passed(centred, latents, n_active, None, error)

    def _are_few(self, n_active: Tensor, latents: Tensor) -> bool:
        """Whether sparse products pay; on a GPU they do not, nor does waiting for the count."""
        if latents.device.type != "cpu":
            return False
        return float(n_active) < SPARSE_BELOW[self._products] * latents.numel()

    def _sums(self, acts: Tensor) -> Tensor:
        """Forward alone."""
        passed = self._forward(acts)
        totals = column_sums(passed.latents)
        return _sums_of(passed, self.recipe.coefficient * torch.dot(totals, self._norms()))


def _sums_of(passed: _Passed, sparsity: Tensor) -> Tensor:
    """Squared error, sparsity term and active latents."""
    squared_error = torch.linalg.vector_norm(passed.error, dtype=torch.float64).square()
    return torch.stack([squared_error, sparsity.double(), passed.n_active])

"""What our own training steps have in common: the weights, Adam, and how long latents are silent.

The gradients are written by hand. They are kept n_tokens / 2 times too large, which takes the
factor 2 / n_tokens of the mean squared error out of every product; Adam divides by it on its way.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdlms.sae.adam import Adam
from sdlms.sae.learner import Losses, Sums
from sdlms.sae.recipe import Recipe
from sdlms.sae.scratch import shared_scratch

BLOCK_ROWS = 256


class OwnLearner(ABC):
    """A `Learner` whose kind gives the gradients and the sums.

    Attributes:
        recipe: what it is trained with.
        n_done: updates so far.
        adam: the weights and their gradients; the encoder is `[latent, unit]` here, which is how
            the gradient of few active latents comes.
        silent_steps: `[latent]` int64, updates since each latent last fired.
    """

    def __init__(
        self,
        recipe: Recipe,
        initial: dict[str, Tensor],
        products: torch.dtype,
        device: torch.device,
    ) -> None:
        """Start from copies of `initial`, with matrix products in `products`."""
        self.recipe = recipe
        self.n_done = 0
        self.adam = Adam({**initial, "W_enc": initial["W_enc"].T}, device)
        self.silent_steps = torch.zeros(recipe.width, dtype=torch.int64, device=device)
        self._products = products
        self._scratch = shared_scratch(device, recipe.d_in, recipe.width)
        self._last: tuple[int, Tensor] | None = None

    def step(self, acts: Tensor) -> None:
        """One update, as `Learner.step`."""
        sums, fired = self._fill_gradients(acts)
        self._last = len(acts), sums
        self.silent_steps += 1
        self.silent_steps.masked_fill_(fired, 0)
        self.adam.step_(self.recipe.lr_at(self.n_done), scale=len(acts) / 2)
        self.n_done += 1

    @abstractmethod
    def _fill_gradients(self, acts: Tensor) -> tuple[Tensor, Tensor]:
        """Fill `adam.grads`, n_tokens / 2 times too large.

        Returns:
            `[3]`: squared error, sparsity term and active latents, summed over tokens; and
            `[latent]` bool, which latents fired.
        """

    @abstractmethod
    def _sums(self, acts: Tensor) -> Tensor:
        """The first of `_fill_gradients` by the whole coefficient, without learning."""

    def losses(self) -> Losses:
        """Of the last update.

        Raises:
            ValueError: there was none in this process.
        """
        if self._last is None:
            raise ValueError("no update since the learner was made")
        n_tokens, sums = self._last
        return Losses(*(sums / n_tokens).tolist())

    def n_dead(self) -> int:
        """Latents that have not fired for more than `dead_after_steps` updates."""
        return int(self._dead().sum())

    def _dead(self) -> Tensor:
        """Which those are, `[latent]` bool."""
        return self.silent_steps > self.recipe.dead_after_steps

    def calibrate(self, acts: Tensor) -> None:  # noqa: B027 - part of the contract
        """Nothing: no kind of ours has anything to calibrate."""

    def evaluate(self, acts: Tensor) -> Sums:
        """The objective on other activations, at most `batch_size` of them at a time."""
        parts = [self._sums(part) for part in torch.split(acts, self.recipe.batch_size)]
        squared_error, sparsity, n_active = torch.stack(parts).sum(0).tolist()
        return Sums(len(acts), squared_error, sparsity, round(n_active))

    def weights(self) -> dict[str, Tensor]:
        """The parameters as they are now; `W_enc` is a transposed view."""
        return {**self.adam.params, "W_enc": self.adam.params["W_enc"].T}

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on."""
        return {
            **self.adam.state(),
            "silent_steps": self.silent_steps,
            "n_done": torch.tensor(self.n_done),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state."""
        self.adam.load_state(state)
        self.silent_steps.copy_(state["silent_steps"])
        self.n_done = int(state["n_done"])
        self._last = None

    def _norms(self) -> Tensor:
        """Of the decoder's rows, `[latent]`."""
        norms: Tensor = torch.linalg.vector_norm(self.adam.params["W_dec"], dim=1)
        return norms

    def _centred(self, acts: Tensor) -> Tensor:
        """Activations without the decoder's bias."""
        bias = self.adam.params["b_dec"]
        room = self._room("centred", *acts.shape, dtype=torch.float32)
        return torch.sub(acts.to(bias.device), bias, out=room)

    def _room(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Scratch of that shape, in the products' type unless another is named."""
        return self._scratch.tensor(name, shape, dtype or self._products)

    def _as_factor(self, name: str, tensor: Tensor) -> Tensor:
        """A float32 tensor in the products' type."""
        if self._products == torch.float32:
            return tensor
        return self._room(name, *tensor.shape).copy_(tensor)

    def _product_into(self, out: Tensor, left: Tensor, right: Tensor) -> None:
        """Write a product of the products' type to a float32 tensor."""
        if self._products == torch.float32:
            torch.mm(left, right, out=out)
        else:
            out.copy_(torch.mm(left, right, out=self._room("product", *out.shape)))


def column_sums(values: Tensor) -> Tensor:
    """Sum over rows in float32, without a float32 copy of the rows.

    Blocks of rows are added up in the tensor's own type. bfloat16 holds whole numbers up to 256:
    counts are exact.
    """
    n_rows, n_columns = values.shape
    whole = n_rows - n_rows % BLOCK_ROWS
    blocks = values[:whole].view(-1, BLOCK_ROWS, n_columns).sum(1)
    return torch.cat([blocks, values[whole:].sum(0, keepdim=True)]).float().sum(0)

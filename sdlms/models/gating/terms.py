"""How a context gates: what its user may choose, and what every gated layer of it shares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor

from sdlms.models.gating.backends import Backend, BackendName, backend_of
from sdlms.models.gating.laid_rows import Scratch
from sdlms.models.gating.layouts import LinearMap, Mlp
from sdlms.models.gating.learned import Learned
from sdlms.models.gating.stand_ins import StandIn
from sdlms.models.gating.tallies import Tally
from sdlms.progress import LOGGER

Execution = Literal["auto", "masked", "sparse"]


@dataclass(frozen=True, kw_only=True)
class How:
    """How `gated` does it.

    Attributes:
        backend: what multiplies one row: `auto` is `compiled` where that can be.
        execution: `masked`: masks and the dense modules, weights untouched: quality, never speed.
            `sparse`: every row through the backend, one at a time. `auto`: calls of one row are
            sparse, calls of more rows are masked (rules of the family `compact`: compact matrices).
        layers: that are gated; None for all.
        force_at_one: gate at keep 1 too; otherwise keep 1 is the model's own modules.
        hold_both: keep the dense weights beside the laid-out ones, in more memory; needed by
            `Gates.paused` unless execution is masked.
        prompt_tokens: rule `sequence`, masked: so many first tokens of every row are its prompt.
            0: a call of several tokens is a prompt.
        seed: of rules that draw.
        on_mask: masked execution: told the layer and which neurons are kept, bool
            `[batch, token, neuron]`.
    """

    backend: BackendName = "auto"
    execution: Execution = "auto"
    layers: tuple[int, ...] | None = None
    force_at_one: bool = False
    hold_both: bool = False
    prompt_tokens: int = 0
    seed: int = 0
    on_mask: Callable[[int, Tensor], None] | None = None


class Backends:
    """The backend of each dtype and device, made when it is first needed."""

    def __init__(self, name: BackendName) -> None:
        self._name = name
        self._made: dict[tuple[torch.dtype, torch.device], Backend] = {}

    def of(self, weight: Tensor) -> Backend:
        """The backend for a weight.

        Raises:
            UserError: `compiled` was asked for, and cannot be.
        """
        key = (weight.dtype, weight.device)
        if key not in self._made:
            self._made[key] = backend_of(self._name, *key, _log_fallback)
        return self._made[key]


@cache
def _log_fallback(reason: str) -> None:
    """Once per process."""
    LOGGER.info(f"gated MLPs run in plain torch: {reason}")


@dataclass(frozen=True)
class Terms:
    """What all gated layers of a context share.

    Attributes:
        rule: its name.
        how: what the user chose.
        learned: what a sample taught, where there is one.
        backends: for sparse execution.
        scratch: for laying weights out.
    """

    rule: str
    how: How
    learned: Learned | None
    backends: Backends
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def masked(self) -> bool:
        """Whether the dense modules multiply."""
        return self.how.execution == "masked"

    @property
    def untouched(self) -> bool:
        """Whether the model's weights stay as they are."""
        return self.masked or self.how.hold_both


class GatedMlp:
    """One gated layer: what a family of rules does in the places of its linear maps.

    A subclass says what `up` and `down` compute, and what `set_keep`, `lay` and `lay_back` do. It
    remembers things from call to call, so that one thread at a time may run the model.

    Attributes:
        permutes: whether laying weights out changes their order.
    """

    permutes = False

    def __init__(self, mlp: Mlp, terms: Terms) -> None:
        self.mlp, self.terms = mlp, terms
        self.tally = Tally()
        self.backend = None if terms.masked else terms.backends.of(mlp.down.weight)
        self._shape: torch.Size | None = None
        self._parameters = [p for own in mlp.maps for p in (own.weight, own.bias) if p is not None]

    def up(self, index: int, x: Tensor) -> Tensor:
        """In the place of a map into the neurons: `[..., in]` to `[..., neuron]`."""
        raise NotImplementedError

    def down(self, x: Tensor) -> Tensor:
        """In the place of the down projection: `[..., neuron]` to `[..., d_model]`."""
        raise NotImplementedError

    def set_keep(self, keep: float, share: float) -> None:
        """Choose for another keep from now on.

        Args:
            keep: in (0, 1].
            share: what the keep means for this layer, of scores (`top-p`) or weights (`input`).
        """
        raise NotImplementedError

    def lay(self) -> None:
        """Lay the weights out for sparse execution."""

    def lay_back(self) -> None:
        """Undo `lay`, exactly."""

    def stand_ins(self) -> list[tuple[LinearMap, StandIn]]:
        """What is put in the places of the maps."""
        permuted = self.permutes and not self.terms.untouched
        ups = [
            (linear, StandIn(linear.module, partial(self.up, index), permuted=permuted))
            for index, linear in enumerate(self.mlp.ups)
        ]
        down = self.mlp.down
        return [*ups, (down, StandIn(down.module, self.down, permuted=permuted))]

    def see_shape(self, shape: torch.Size) -> None:
        """Batch and token of the forward that begins; some MLPs know them no more (OPT)."""
        self._shape = shape

    def see_forward(self, real: Tensor | None, *, starts: bool) -> None:
        """What a forward of the model begins with.

        Args:
            real: its attention mask `[batch, token]`, where it has one of this kind.
            starts: whether no token came before.
        """

    def shape_of(self, x: Tensor) -> torch.Size:
        """Batch and token of an input of one of the maps."""
        if x.dim() == 3:
            return x.shape[:2]
        if self._shape is None:
            raise ValueError("an MLP of flat tokens was called outside its block")
        return self._shape

    def singly(self, x: Tensor, n_inputs: int) -> bool:
        """Whether the rows of a call go through the backend."""
        if self.backend is None:
            return False
        if self.terms.how.execution == "sparse":
            if torch.is_grad_enabled():
                self.refuse_gradients(x)
            return True
        return (
            x.numel() == n_inputs
            and x.dtype == self.mlp.down.weight.dtype
            and not (torch.is_grad_enabled() and self.wants_gradients(x))
        )

    def wants_gradients(self, x: Tensor) -> bool:
        """Whether gradients of an input or of the layer's weights are asked for."""
        return x.requires_grad or any(own.requires_grad for own in self._parameters)

    def refuse_gradients(self, x: Tensor) -> None:
        """Refuse a call, with gradients enabled, that skips work and would lose some.

        Raises:
            ValueError: gradients are asked for.
        """
        if self.wants_gradients(x):
            raise ValueError(
                f"rule '{self.terms.rule}' has no gradients here. Run the model under "
                "torch.no_grad(), or gate it with How(execution='masked')"
            )

    def tell(self, mask: Tensor, x: Tensor) -> None:
        """Tell who asked which neurons are kept; mask bool `[row, neuron]`."""
        if self.terms.how.on_mask is not None:
            self.terms.how.on_mask(self.mlp.layer, mask.view(*self.shape_of(x), -1))


def masked_product(linear: LinearMap, x: Tensor, mask: Tensor) -> Tensor:
    """A map's own product with the inputs that are kept.

    Args:
        linear: the map.
        x: `[..., in]`.
        mask: bool, of as many elements.
    """
    product: Tensor = linear.module.forward(x.masked_fill(~mask.view(x.shape), 0))
    return product


def rows_of(x: Tensor, n_inputs: int) -> Sequence[Tensor]:
    """The inputs of a map one by one, each `[in]`; of a single one without the cost of a split."""
    x = x.contiguous()
    return (x.view(-1),) if x.numel() == n_inputs else x.view(-1, n_inputs).unbind()


def rows_joined(found: Sequence[Tensor], x: Tensor) -> Tensor:
    """Results `[out]` of `rows_of` in the shape of the input, `[..., out]`."""
    joined = found[0] if len(found) == 1 else torch.stack(list(found))
    return joined.view(*x.shape[:-1], -1)

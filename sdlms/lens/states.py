"""States: the places of the residual stream that a lens looks at."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

StateSite = Literal["resid_pre", "resid_mid", "resid_post"]


class State(NamedTuple):
    """One place of the residual stream.

    Attributes:
        site: `resid_pre` (the embedding, before block `layer`), `resid_mid` (`resid_pre` of block
            `layer` and what its attention adds) or `resid_post` (after block `layer`).
        layer: from 0.
    """

    site: StateSite
    layer: int

    @property
    def name(self) -> str:
        """`embedding`, `block 3 attention` or `block 3`."""
        names = {
            "resid_pre": "embedding" if self.layer == 0 else f"before block {self.layer}",
            "resid_mid": f"block {self.layer} attention",
            "resid_post": f"block {self.layer}",
        }
        return names[self.site]


def states_of(
    n_layers: int,
    layers: Sequence[int],
    *,
    with_mid: Literal["blocks", "attention"] = "blocks",
) -> list[State]:
    """The states of some layers in the order of the forward pass.

    Args:
        n_layers: of the model.
        layers: from 0, in any order; a repeated one counts once.
        with_mid: `attention` puts the state after a layer's attention before the one after its
            block.

    Returns:
        First the embedding, then the states of `layers`, last the one after the model's last block
        whatever `layers` says.

    Raises:
        ValueError: A layer does not exist, or the model has none.
    """
    absent = sorted({layer for layer in layers if not 0 <= layer < n_layers})
    if n_layers < 1 or absent:
        raise ValueError(f"layers {absent} do not exist; the model has {n_layers}")
    states = [State("resid_pre", 0)]
    for layer in sorted(set(layers)):
        if with_mid == "attention":
            states.append(State("resid_mid", layer))
        states.append(State("resid_post", layer))
    final = State("resid_post", n_layers - 1)
    return states if states[-1] == final else [*states, final]

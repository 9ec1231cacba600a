"""Which layers a user means: indices, shares of the depth, or all."""

import math
import re
from collections.abc import Sequence

from sdlms.errors import UserError

DEFAULT_LAYERS = ("25%", "50%", "75%")
ALL = ("all",)
INDEX = re.compile(r"[0-9]{1,9}")
PERCENTAGE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{0,9})?)%")


def check_layers(layers: tuple[str, ...]) -> None:
    """Check the spelling, before any model is known.

    Raises:
        UserError: a word is neither an index, nor a percentage, nor `all` alone.
    """
    if not layers:
        raise UserError("--layers is empty. Name indices, percentages, or all.")
    for word in layers:
        if word == "all" and len(layers) == 1:
            continue
        if not (INDEX.fullmatch(word) or _percentage(word) is not None):
            raise UserError(
                f"--layers: '{word}' is neither an index (0, 1, …), nor a percentage of the "
                "depth (25%), nor 'all' alone."
            )


def _percentage(word: str) -> float | None:
    """A share of the depth in percent, 0 to 100; None where the word is none."""
    match = PERCENTAGE.fullmatch(word)
    return float(match[1]) if match and float(match[1]) <= 100 else None


def layer_at(fraction: float, n_layers: int) -> int:
    """The layer at a relative depth: half up of fraction x n_layers, at most the last."""
    depth = round(fraction * n_layers, 9)  # in floats 0.29 x 50 is 14.499999999999998
    return min(math.floor(depth + 0.5), n_layers - 1)


def layers_of(layers: tuple[str, ...], n_layers: int) -> list[int]:
    """The layers of a model, ascending; those that coincide are named once.

    Raises:
        UserError: an index is beyond the model.
    """
    check_layers(layers)
    if layers == ALL:
        return list(range(n_layers))
    chosen = set()
    for word in layers:
        percentage = _percentage(word)
        layer = int(word) if percentage is None else layer_at(percentage / 100, n_layers)
        if layer >= n_layers:
            share = f" Did you mean {word}%?" if layer <= 100 else ""
            raise UserError(
                f"--layers: there is no layer {layer}; the model has layers 0 to {n_layers - 1}."
                f"{share}"
            )
        chosen.add(layer)
    return sorted(chosen)


def layers_among(
    layers: tuple[str, ...], held: Sequence[int], n_layers: int, name: str
) -> list[int]:
    """The layers that are meant of those that a run holds, ascending; `all` are all of these.

    Args:
        layers: words; shares are of the model's depth.
        held: the run's layers.
        n_layers: of the model.
        name: of the run.

    Raises:
        UserError: an index is beyond the model, or the run does not hold it.
    """
    wanted = sorted(held) if layers == ALL else layers_of(layers, n_layers)
    if absent := [layer for layer in wanted if layer not in held]:
        raise UserError(
            f"--layers: layer {absent[0]} is not there; {name} holds {named_layers(held)}."
        )
    return wanted


def named_layers(layers: Sequence[int]) -> str:
    """`layer 1`, or `layers 1, 2`."""
    return f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}"

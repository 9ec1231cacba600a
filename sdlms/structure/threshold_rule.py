"""`--threshold`: above which activation a unit fires. Light, so that help answers at once."""

from math import isfinite
from typing import Literal, NamedTuple

from sdlms.errors import UserError

ZERO = "zero"
LARGEST = 3.4e38  # of float32


class ThresholdRule(NamedTuple):
    """How the threshold of a unit is found; a unit fires strictly above it.

    Attributes:
        kind: `fixed`, the same for all units; `quantile`, of the unit's own activations; `auto`,
            not decided yet.
        value: the threshold itself, or the quantile's fraction in (0, 1).
    """

    kind: Literal["auto", "fixed", "quantile"]
    value: float = 0.0

    @property
    def name(self) -> str:
        """As tables spell it: `zero`, `fixed_0.5`, `quantile_0.9`."""
        if self.kind == "auto":
            return self.kind
        return ZERO if self == AT_ZERO else f"{self.kind}_{self.value}"


AUTO = ThresholdRule("auto")
AT_ZERO = ThresholdRule("fixed", 0.0)


def parse_threshold(word: str) -> ThresholdRule:
    """What `--threshold` means.

    Args:
        word: `auto`, `fixed:X` or `quantile:F`.

    Raises:
        UserError: it is none of these, X is no finite number, or F is not between 0 and 1.
    """
    if word == AUTO.kind:
        return AUTO
    kind, _, number = word.partition(":")
    if kind == "fixed":
        threshold = _finite(word, number)
        if abs(threshold) > LARGEST:
            raise UserError(f"--threshold {word}: no activation in float32 is that large.")
        return ThresholdRule("fixed", threshold)
    if kind == "quantile":
        fraction = _finite(word, number)
        if not 0 < fraction < 1:
            raise UserError(f"--threshold {word}: a quantile lies between 0 and 1, as in 0.9.")
        return ThresholdRule("quantile", fraction)
    raise UserError(
        f"--threshold '{word}' is none of auto, fixed:X (a unit fires above X), quantile:F (above "
        "the F quantile of its own activations)."
    )


def _finite(word: str, number: str) -> float:
    """The number behind the colon."""
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise UserError(f"--threshold {word}: '{number}' is no number. Try fixed:0 or quantile:0.9")
    return value


def rule_named(name: str) -> ThresholdRule:
    """The rule that a table names; the inverse of `ThresholdRule.name`.

    Raises:
        ValueError: no table spells a rule like this.
    """
    if name == ZERO:
        return AT_ZERO
    kind, _, number = name.partition("_")
    if kind == "fixed":
        return ThresholdRule("fixed", float(number))
    if kind == "quantile":
        return ThresholdRule("quantile", float(number))
    raise ValueError(f"threshold rule '{name}'")

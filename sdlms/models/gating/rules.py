"""Which rules there are for gating an MLP, what each saves and what it must know.

A *rule* says which neurons of an MLP are kept for a token, or which inputs of its matrices; `keep`
is the fraction that it is asked to keep. What is kept is chosen in `scoring`; this table is light,
so that settings are checked before anything heavy is imported.
"""

from dataclasses import dataclass
from typing import Literal

from sdlms.errors import UserError, did_you_mean

Family = Literal["down", "inputs", "compact"]
Needs = Literal["nothing", "calibration", "blocks"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        family: what sparse execution saves. `down`: up (and gate) matrices are computed whole, then
            only the kept neurons' rows of the down projection are read. `inputs`: of every matrix
            of the MLP only the rows of large inputs are read. `compact`: one set of neurons serves
            many tokens, and all matrices shrink to it.
        needs: what it must know beyond the weights: a calibration sample, or blocks of neurons.
        warning: what whoever chooses it should hear.
        summary: one line of help.
    """

    family: Family
    needs: Needs = "nothing"
    warning: str | None = None
    summary: str


DEFAULT_RULE = "post-norm"
RULES: dict[str, Rule] = {
    "post-norm": Rule(
        family="down",
        summary="neurons of largest magnitude times norm of their output row, per token",
    ),
    "post-abs": Rule(family="down", summary="neurons of largest magnitude, per token"),
    "pre-abs": Rule(
        family="down",
        warning=(
            "rule pre-abs ranks neurons by the magnitude before the activation function: strongly "
            "negative inputs, for which GELU and SiLU give almost nothing, come first. post-norm "
            "keeps better."
        ),
        summary="neurons of largest magnitude before the activation function, per token",
    ),
    "random": Rule(family="down", summary="control: another random set of neurons for each token"),
    "threshold": Rule(
        family="down",
        needs="calibration",
        summary="neurons whose post-norm score is above the layer's quantile",
    ),
    "top-p": Rule(
        family="down",
        needs="calibration",
        summary="the fewest neurons that hold a share p of a token's post-norm scores",
    ),
    "blocks": Rule(
        family="down",
        needs="blocks",
        summary="communities of neurons as blocks, those of largest mean score per token",
    ),
    "blocks-random": Rule(
        family="down",
        needs="blocks",
        summary="control: blocks of the same sizes, neurons dealt to them at random",
    ),
    "input": Rule(
        family="inputs",
        needs="calibration",
        summary="large inputs of every MLP matrix, dealt where they cost least",
    ),
    "sequence": Rule(
        family="compact",
        summary="one set of neurons per prompt, those that were strongest over its tokens",
    ),
    "static": Rule(
        family="compact",
        needs="calibration",
        summary="control: one set of neurons for ever, of largest mean score on the sample",
    ),
}


def rule_of(name: str) -> Rule:
    """The rule of a name.

    Raises:
        UserError: there is no such rule.
    """
    if name not in RULES:
        raise UserError(
            f"there is no rule '{name}'; the rules are {', '.join(RULES)}.{_hint(name)}"
        )
    return RULES[name]


def _hint(name: str) -> str:
    """The rule that was meant, where one is close."""
    hint = did_you_mean(name, RULES)
    return hint if "Did you mean" in hint else ""


def check_keep(keep: float, name: str = "keep") -> None:
    """Make sure that a fraction can be kept.

    Args:
        keep: of the neurons.
        name: what the user calls it.

    Raises:
        UserError: it is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise UserError(f"{name} must be above 0 and at most 1, got {keep}. Try 0.3.")


def n_kept(keep: float, width: int) -> int:
    """How many of `width` neurons are kept: half up of keep x width, at least one.

    Args:
        keep: in (0, 1].
        width: neurons.
    """
    # In floats 0.145 x 100 is 14.499999999999998.
    return max(1, min(width, int(keep * width + 0.5 + 1e-6)))

"""What a user should hear of the rules before they are measured."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sdlms.dynamic.windows import Drawn, Windows
from sdlms.models.gating.rules import rule_of
from sdlms.models.layers import named_layers


def doubts_of(
    rules: Sequence[str], drawn: Mapping[int, Drawn], blocks: Mapping[int, object] | None
) -> Iterator[str]:
    """Warnings, rule by rule.

    Args:
        rules: names.
        drawn: what each seed reads.
        blocks: by layer; None where no rule needs them.
    """
    for rule in rules:
        if warning := rule_of(rule).warning:
            yield warning
        if rule_of(rule).needs == "blocks" and blocks is not None:
            yield (
                f"rule {rule} gates {named_layers(sorted(blocks))} alone: its figures do not "
                "compare with those of rules that gate all layers, where there are others"
            )
    if "sequence" in rules:
        fractions = [continued_fraction(each.windows) for each in drawn.values()]
        yield (
            f"rule sequence chooses by each window's context; {np.mean(fractions):.0%} of the "
            "scored tokens belong to the document that this ends with, the others to new ones. "
            "Longer documents are fairer to it"
        )


def continued_fraction(windows: Windows) -> float:
    """Share of the scored tokens whose document is the one that the window's context ends with.

    It is told by the first token that is scored: where that begins a document of its own, the share
    is a little too large.
    """
    own = windows.document == windows.document[:, :1]
    return float((own & windows.scored).sum() / windows.scored.sum())

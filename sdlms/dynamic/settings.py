"""Settings of dynamic-k that depend on each other, checked before anything heavy is imported."""

from collections.abc import Sequence
from typing import Literal

from sdlms.errors import UserError
from sdlms.models.gating.rules import check_keep, rule_of

LEAST_PROMPT = 16
"""Tokens of a window before the first that is scored, from which `sequence` chooses."""


def check_rules(rules: Sequence[str], keeps: Sequence[float]) -> None:
    """Check `--rule` and `--keep`.

    Raises:
        UserError: one is empty, there is no such rule, or a fraction is not in (0, 1].
    """
    if not rules or not keeps:
        raise UserError("--rule and --keep name at least one each (--rule post-norm --keep 0.3).")
    for rule in rules:
        rule_of(rule)
    for keep in keeps:
        check_keep(keep, "--keep")


def check_needs(rules: Sequence[str], si: str | None, calibration_tokens: int) -> None:
    """Refuse rules that lack what they need.

    Raises:
        UserError: a rule keeps communities and no run names them, or learns from no text.
    """
    for rule in rules:
        if rule_of(rule).needs == "blocks" and si is None:
            raise UserError(
                f"--rule {rule} keeps communities of neurons: name a run that has found them "
                "by --si (make one: sdlms si-modularity)."
            )
        if rule_of(rule).needs != "nothing" and not calibration_tokens:
            raise UserError(
                f"--rule {rule} learns from text: --calibration-tokens must be at least one "
                "window, got 0."
            )


def check_force(force_sparse_at_one: bool, rules: Sequence[str], keeps: Sequence[float]) -> None:
    """Check `--force-sparse-at-one`.

    Raises:
        UserError: nothing is measured at 1, or a rule has no sparse product of whole windows.
    """
    if not force_sparse_at_one:
        return
    if 1.0 not in keeps:
        raise UserError("--force-sparse-at-one says what is done at 1.0: add it to --keep.")
    if "sequence" in rules:
        raise UserError(
            "--force-sparse-at-one: rule sequence runs prompts as they are, no kernel reads a "
            "window. Name another --rule."
        )


def check_idle(measure: Literal["quality", "speed", "both"], idle: Sequence[str]) -> None:
    """Refuse flags that would change nothing.

    Args:
        measure: what is measured.
        idle: flags that were set and matter for the other measurement alone.

    Raises:
        UserError: naming the first.
    """
    if idle:
        raise UserError(
            f"{idle[0]} has nothing to do with --measure {measure}. Leave one of them out."
        )


def check_prompt(rules: Sequence[str], window: int, stride: int) -> None:
    """Make sure that windows hold a prompt for the rule `sequence`.

    Raises:
        UserError: they hold too few tokens before the first that is scored.
    """
    n_prompt, most = window - stride - 1, window - LEAST_PROMPT - 1
    if "sequence" in rules and n_prompt < LEAST_PROMPT:
        longer = f"--window to at least {LEAST_PROMPT + 2}"
        way = f"--stride to at most {most}" if most > 0 else longer
        raise UserError(
            f"--rule sequence chooses from the {max(n_prompt, 0)} tokens before those that are "
            f"scored; it takes {LEAST_PROMPT}. Set {way}."
        )

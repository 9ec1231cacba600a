"""What settings need of each other is known before anything heavy is imported."""

import subprocess
import sys

import pytest

from sdlms.dynamic.settings import (
    LEAST_PROMPT,
    check_force,
    check_idle,
    check_needs,
    check_prompt,
    check_rules,
)
from sdlms.errors import UserError
from sdlms.models.gating.rules import RULES


def test_importing_them_imports_nothing_heavy() -> None:
    program = "import sys, sdlms.dynamic.settings; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"numpy", "torch", "transformers"} & set(done.stdout.split())


def test_a_rule_and_a_fraction_are_named() -> None:
    check_rules(tuple(RULES), (0.1, 1.0))
    for rules, keeps in (((), (0.5,)), (("post-norm",), ())):
        with pytest.raises(UserError, match=r"^--rule and --keep name at least one each"):
            check_rules(rules, keeps)
    with pytest.raises(UserError, match="there is no rule 'best'"):
        check_rules(("post-norm", "best"), (0.5,))
    with pytest.raises(UserError, match=r"above 0 and at most 1, got 1\.5"):
        check_rules(("post-norm",), (0.5, 1.5))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_what_it_needs(rule: str) -> None:
    check_needs((rule,), "a run", 64)
    needs = RULES[rule].needs
    if needs == "blocks":
        with pytest.raises(UserError, match=f"--rule {rule} keeps communities of neurons: name a"):
            check_needs(("post-norm", rule), None, 64)
    else:
        check_needs((rule,), None, 64)
    if needs == "nothing":
        check_needs((rule,), None, 0)
    else:
        with pytest.raises(UserError, match=f"--rule {rule} learns from text: --calibration-tok"):
            check_needs(("post-norm", rule), "a run", 0)


def test_what_is_forced_at_one_is_measured_at_one() -> None:
    check_force(True, ("post-norm",), (0.5, 1.0))
    check_force(False, ("sequence",), (0.5,))
    with pytest.raises(UserError, match=r"says what is done at 1\.0: add it to --keep\.$"):
        check_force(True, ("post-norm",), (0.5, 0.99))


def test_a_sequence_has_no_kernel_to_force() -> None:
    check_force(False, ("sequence",), (1.0,))
    with pytest.raises(UserError, match="--force-sparse-at-one: rule sequence runs prompts as the"):
        check_force(True, ("post-norm", "sequence"), (1.0,))


def test_flags_that_would_change_nothing_are_refused() -> None:
    check_idle("quality", [])
    check_idle("speed", [])
    check_idle("both", [])
    with pytest.raises(UserError, match=r"^--rounds has nothing to do with --measure quality\."):
        check_idle("quality", ["--rounds"])
    with pytest.raises(UserError, match=r"^--layers has nothing to do with --measure speed\."):
        check_idle("speed", ["--layers", "--force-sparse-at-one"])


def test_a_sequence_has_a_prompt_to_choose_from() -> None:
    for window in (LEAST_PROMPT + 2, 64, 512):
        most = window - LEAST_PROMPT - 1  # that many tokens are scored, the one before is gated
        check_prompt(("post-norm", "sequence"), window, most)
        check_prompt(("post-norm",), window, window)
        with pytest.raises(UserError) as error:
            check_prompt(("sequence",), window, most + 1)
        assert f"chooses from the {LEAST_PROMPT - 1} tokens before those that" in str(error.value)
        assert str(error.value).endswith(f"Set --stride to at most {most}.")
        with pytest.raises(UserError, match="from the 0 tokens"):
            check_prompt(("sequence",), window, window)


def test_of_windows_too_short_for_any_prompt_longer_ones_are_asked_for() -> None:
    with pytest.raises(UserError, match=rf"it takes {LEAST_PROMPT}\. Set --window to at least 18"):
        check_prompt(("sequence",), LEAST_PROMPT + 1, 1)

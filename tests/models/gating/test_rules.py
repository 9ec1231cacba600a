"""The table of rules, and how many neurons a fraction is."""

import math
import subprocess
import sys
from fractions import Fraction

import pytest

from sdlms.errors import UserError
from sdlms.models.gating.choosers import CHOOSERS
from sdlms.models.gating.rules import DEFAULT_RULE, RULES, check_keep, n_kept, rule_of


def test_the_rules_that_were_promised_are_there() -> None:
    promised = (
        "post-norm post-abs pre-abs random threshold top-p blocks blocks-random input sequence "
        "static"
    )
    assert list(RULES) == promised.split()
    assert rule_of(DEFAULT_RULE) is RULES["post-norm"]
    assert [name for name, rule in RULES.items() if rule.warning] == ["pre-abs"]


def test_every_rule_that_chooses_neurons_by_token_has_its_chooser() -> None:
    assert set(CHOOSERS) == {name for name, rule in RULES.items() if rule.family == "down"}


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no rule 'postnorm'; .* static\. Did you mean 'post-nor"):
        rule_of("postnorm")
    with pytest.raises(UserError, match=r"no rule 'zzz'; the rules are post-norm, .* static\.$"):
        rule_of("zzz")


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_keep_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(UserError, match="keep must be above 0 and at most 1") as found:
        check_keep(keep)
    assert "\n" not in str(found.value)


def test_every_fraction_in_range_is_taken() -> None:
    for keep in (1e-9, 0.3, 1.0):
        check_keep(keep)


def test_counts_are_those_of_exact_arithmetic() -> None:
    for width in (1, 7, 10, 100, 384, 4096):
        for thousandths in range(1, 1001):
            exact = math.floor(Fraction(thousandths * width, 1000) + Fraction(1, 2))
            assert n_kept(thousandths / 1000, width) == max(1, exact)


def test_import_is_light() -> None:
    code = (
        "import sys, sdlms.models.gating.rules;"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

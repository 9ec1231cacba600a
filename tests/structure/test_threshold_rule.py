import pytest

from sdlms.acts.statistics import Rule
from sdlms.errors import UserError
from sdlms.structure.threshold_rule import AUTO, ThresholdRule, parse_threshold, rule_named


@pytest.mark.parametrize(
    ("word", "rule", "name"),
    [
        ("auto", AUTO, "auto"),
        ("fixed:0", ThresholdRule("fixed", 0.0), "zero"),
        ("fixed:-0.0", ThresholdRule("fixed", 0.0), "zero"),
        ("fixed:-0.25", ThresholdRule("fixed", -0.25), "fixed_-0.25"),
        ("fixed:1e-3", ThresholdRule("fixed", 0.001), "fixed_0.001"),
        ("quantile:.9", ThresholdRule("quantile", 0.9), "quantile_0.9"),
    ],
)
def test_a_word_is_a_rule_and_a_rule_has_a_name(word: str, rule: ThresholdRule, name: str) -> None:
    found = parse_threshold(word)
    assert (found, found.name) == (rule, name)
    if rule != AUTO:
        assert rule_named(name) == rule


@pytest.mark.parametrize("fixed", [True, False])
def test_rules_are_called_as_in_the_table_of_a_capture(fixed: bool) -> None:
    name = Rule(fixed_threshold=fixed, rectify=True).name
    assert rule_named(name).name == name
    assert parse_threshold("fixed:0" if fixed else "quantile:0.9") == rule_named(name)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("0.5", "'0.5' is none of auto, fixed:X"),
        ("Quantile:0.9", "'Quantile:0.9' is none of"),
        ("fixed", "'' is no number"),
        ("fixed:nan", "'nan' is no number"),
        ("fixed:inf", "'inf' is no number"),
        ("quantile:x", "'x' is no number"),
        ("quantile:0", "between 0 and 1"),
        ("quantile:1", "between 0 and 1"),
        ("quantile:90", "between 0 and 1"),
    ],
)
def test_another_word_is_refused_in_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse_threshold(word)
    assert "--threshold" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_table_names_another_rule() -> None:
    with pytest.raises(ValueError, match="top_5"):
        rule_named("top_5")

"""Settings that exclude each other."""

import pytest
from transformers import AutoConfig

from sdlms.errors import UserError
from sdlms.lens.settings import check_mid, check_tuned


@pytest.mark.parametrize(
    ("train", "saved", "mid", "changed"),
    [
        (False, None, True, []),
        (True, None, False, ["--tuned-steps"]),
        (False, "a lens", False, []),
    ],
)
def test_what_fits_together_passes(
    train: bool, saved: str | None, mid: bool, changed: list[str]
) -> None:
    check_tuned(train=train, saved=saved, mid=mid, changed=changed)


@pytest.mark.parametrize(
    ("train", "saved", "mid", "changed", "message"),
    [
        (True, "a", False, [], "--tuned trains a lens and --tuned-lens a reads one"),
        (True, None, True, [], "Leave out --mid or --tuned."),
        (False, "a", True, [], "Leave out --mid or --tuned-lens."),
        (False, "", False, [], "--tuned-lens is empty"),
        (False, None, False, ["--tuned-steps"], "--tuned-steps is for --tuned"),
        (False, "a", False, ["--tuned-steps"], "--tuned-steps is for --tuned"),
    ],
)
def test_what_does_not_is_one_line(
    train: bool, saved: str | None, mid: bool, changed: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_tuned(train=train, saved=saved, mid=mid, changed=changed)
    assert "\n" not in str(error.value)


def test_states_after_attention_need_a_stream() -> None:
    check_mid(AutoConfig.for_model("opt"))
    check_mid(AutoConfig.for_model("gemma2"))
    with pytest.raises(UserError, match="--mid: blocks of this model"):
        check_mid(AutoConfig.for_model("opt", do_layer_norm_before=False))

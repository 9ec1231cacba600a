import logging

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models.failures import one_line_errors, quiet_transformers, reason_of


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA"), "--model m does not fit the memory of cuda:0"),
        (KeyError("foo"), "--model m: its config asks for 'foo', which transformers"),
        (RuntimeError("first\nsecond"), "--model m: cannot build it: first"),
        (ZeroDivisionError(), "--model m: cannot build it: ZeroDivisionError"),
    ],
)
def test_failures_are_one_line(error: Exception, message: str) -> None:
    with (
        pytest.raises(UserError) as caught,
        one_line_errors("m", "the memory of cuda:0", "build it"),
    ):
        raise error
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_other_failures_pass() -> None:
    with pytest.raises(AssertionError), one_line_errors("m"):
        raise AssertionError


def test_lines_are_joined() -> None:
    error = ValueError("which field:\n    why\nmore")
    assert reason_of(error) == "which field:"
    assert reason_of(error, lines=2) == "which field: why"


def test_reports_are_silenced_and_come_back() -> None:
    loggers = [logging.getLogger("transformers"), logging.getLogger("accelerate")]
    before = [logger.level for logger in loggers]
    with pytest.raises(ValueError, match="x"), quiet_transformers():
        assert [logger.level for logger in loggers] == [logging.ERROR] * 2
        raise ValueError("x")
    assert [logger.level for logger in loggers] == before

import pytest

from sdlms.explorer import refusals


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (refusals.BadRequest, 400),
        (refusals.NotFound, 404),
        (refusals.TooLarge, 413),
        (refusals.OutOfRange, 422),
        (refusals.TooMany, 429),
        (refusals.Closed, 503),
    ],
)
def test_each_refusal_has_its_status(refusal: type[refusals.Refusal], status: int) -> None:
    assert refusal("why").status == status


def test_quoted_words_of_a_client_stay_on_one_short_line() -> None:
    quoted = refusals.one_line("a\nb\x1b" + "c" * 100)
    assert quoted.isprintable()
    assert len(quoted) < 60

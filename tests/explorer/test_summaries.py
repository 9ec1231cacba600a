import pytest

from sdlms.explorer.records import VERSION
from sdlms.explorer.summaries import summary_of

RECORD = {
    "version": VERSION,
    "title": "Rain",
    "token_ids": [1, 2, 3],
    "messages": [["user", "Will it rain?"]],
    "updated": "2024-05-01",
}


def test_a_conversation_in_a_line() -> None:
    assert summary_of("c", RECORD) == {
        "conversation_id": "c",
        "title": "Rain",
        "created": "",
        "updated": "2024-05-01",
        "n_tokens": 3,
        "n_messages": 1,
    }


def test_without_tokens_there_is_nothing_to_show() -> None:
    assert summary_of("c", RECORD | {"token_ids": []}) is None


@pytest.mark.parametrize(
    "change", [{"version": 0}, {"title": None}, {"title": "\ud800"}, {"token_ids": "123"}]
)
def test_what_is_no_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"version|title|token_ids|surrogates"):
        summary_of("c", RECORD | change)
